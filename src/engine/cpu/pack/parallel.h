// Loops on the threads of a call: oneTBB's, of the arena they are called in, or an executor's.
#pragma once

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <cstddef>

#include "engine/cpu/pack/host.h"
#include "engine/cpu/pack/region.h"

namespace kineograph::engine::cpu {

/// `body` with this thread's host, wherever it is called.
template <class Body>
auto on_this_host(const Body& body) {
  return [here = host(), &body](std::size_t i) {
    const HostScope scope(here);
    body(i);
  };
}

/// body(i) for every i below `count`. The loop has a task context of its own: a caller whose task group is cancelled
/// meanwhile still gets every piece done. A thread that waits for the last pieces may take up any task of the arena,
/// another caller's whole call included, or any piece of the call's: never wait here with a lock held.
template <class Body, class Partitioner = tbb::auto_partitioner>
void spread(std::size_t count, const Body& body, const Partitioner& partitioner = Partitioner()) {
  const auto piece = on_this_host(body);
  if (Region* const region = host().region) return region->spread(count, IndexWork(piece), false);
  tbb::task_group_context context(tbb::task_group_context::isolated);
  tbb::parallel_for(std::size_t{0}, count, piece, partitioner, context);
}

/// The same, and a thread that waits takes up pieces of this loop only, so that the caller may hold a lock.
template <class Body, class Partitioner = tbb::auto_partitioner>
void spread_isolated(std::size_t count, const Body& body, const Partitioner& partitioner = Partitioner()) {
  const auto piece = on_this_host(body);
  if (Region* const region = host().region) return region->spread(count, IndexWork(piece), true);
  tbb::this_task_arena::isolate([&] { spread(count, body, partitioner); });
}

/// body(i) for every i below `count`, by the threads of run_on: the calling one alone if it asked for no more.
template <class Body>
void for_each_index(int threads, std::size_t count, const Body& body) {
  if (threads == 1)
    for (std::size_t i = 0; i < count; ++i) body(i);
  else
    spread_isolated(count, body);
}

}  // namespace kineograph::engine::cpu

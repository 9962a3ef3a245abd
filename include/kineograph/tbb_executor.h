// An arena of oneTBB as an Executor. Not part of kineograph.h: it needs oneTBB's headers, and the program links oneTBB.
#pragma once

#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include "kineograph/executor.h"

namespace kineograph {

/// Threads of a task_arena, which outlives this. Bodies are tasks of a group of their own, so that a group of the
/// caller's that is cancelled leaves none of them out.
class TbbExecutor : public Executor {
 public:
  /// Over `arena`.
  explicit TbbExecutor(tbb::task_arena& arena) : arena_(arena) {}
  int concurrency() const noexcept override { return arena_.max_concurrency(); }
  void parallel_for(std::size_t count, const std::function<void(std::size_t)>& body) override {
    arena_.execute([&] {
      // Isolated: a thread that waits for the last bodies takes up no task that may want what the caller holds.
      tbb::this_task_arena::isolate([&] {
        tbb::task_group_context context(tbb::task_group_context::isolated);
        tbb::parallel_for(std::size_t{0}, count, body, tbb::simple_partitioner(), context);
      });
    });
  }

 private:
  tbb::task_arena& arena_;
};

}  // namespace kineograph

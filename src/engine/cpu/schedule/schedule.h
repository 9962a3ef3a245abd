// Which thread does what: tiles to threads, and the memory they do it in.
#pragma once

#include <functional>

#include "engine/cpu/call/call.h"
#include "engine/cpu/pack/parallel.h"
#include "engine/cpu/pack/pool.h"
#include "engine/cpu/schedule/targets.h"

namespace kineograph::engine::cpu {

using WorkspacePool = Pool<Workspace>;

/// Elements of each buffer of a Workspace.
struct WorkspaceSizes {
  std::size_t x = 0, normed = 0, attended = 0, context = 0, qkv = 0, scores = 0, hidden = 0, block = 0;
  std::size_t bytes() const noexcept { return 4 * (x + normed + attended + context + qkv + scores + hidden + block); }
};

WorkspaceSizes workspace_sizes(const PackedModel& model, const TileShape& shape, std::size_t context_tokens,
                               std::size_t context_dim);

/// Runs `body` on `threads` threads of oneTBB's pool, from whichever thread calls. Calls from several threads share the
/// cores.
void run_in_arena(int threads, const std::function<void()>& body);

/// body(i) for every i below `count`, by the threads of run_in_arena: the calling one alone if it asked for no more.
template <class Body>
void for_each_index(int threads, std::size_t count, const Body& body) {
  if (threads == 1)
    for (std::size_t i = 0; i < count; ++i) body(i);
  else
    spread_isolated(count, body);
}

/// Walks every tile of the call: each by one thread, helped by those that find none left, so that the last ones leave
/// nobody idle. Which thread does what never changes a result.
void walk_tiles(const Call& call, const Target& target, Arithmetic arithmetic, const TileShape& shape, int threads,
                const WorkspaceSizes& sizes, WorkspacePool& pool);

/// Tiles of a call.
std::size_t tile_count(const Call& call, const TileShape& shape);

/// Calls walk(tile, team, turns, walker) for every tile; tiles never span videos. As many tiles are walked at once as
/// there are walkers below `walkers`; the other threads help, and so do walkers that find no tile left. What tiles do
/// in turn is done in their order whoever does it.
using TileWalk = std::function<void(const Tile&, Team&, Turns&, std::size_t)>;
void walk_tiles_in_order(const Call& call, const TileShape& shape, int threads, std::size_t walkers,
                         const WorkspaceSizes& sizes, WorkspacePool& pool, const TileWalk& walk);

}  // namespace kineograph::engine::cpu

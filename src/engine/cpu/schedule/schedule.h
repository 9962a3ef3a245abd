// Tiles to threads, and the memory they are walked in.
#pragma once

#include <functional>

#include "engine/cpu/call/target.h"
#include "engine/cpu/pack/parallel.h"
#include "engine/cpu/pack/pool.h"
#include "engine/cpu/tile/tile.h"

namespace kineograph::engine::cpu {

using WorkspacePool = Pool<Workspace>;

/// Runs `body` on `threads` threads of oneTBB's pool, or of the executor that is lent, from whichever thread calls.
/// Calls from several threads share the cores.
void run_on(const Lent& lent, int threads, const std::function<void()>& body);

/// Runs `body`, which packs weights, in the caller's arena or on all threads of the executor.
void pack_on(const Lent& lent, const std::function<void()>& body);

/// Walks every tile of the call: each by one thread, helped by those that find none left, so that no
/// thread is idle during the last ones. The division of labour never changes a result. Each is a step of the call's
/// progress. A thread that fails lets the others end the tiles they are at.
void walk_tiles(const Call& call, const Target& target, const TileShape& shape, int threads,
                const WorkspaceSizes& sizes, WorkspacePool& pool);

/// Calls walk(i, team, own workspace) for every i below `count`, each by one thread, helped likewise; each is a step of
/// `progress`, if there is one.
using IndexedWalk = std::function<void(std::size_t, Team&, Workspace&)>;
void walk_indices(std::size_t count, int threads, const WorkspaceSizes& sizes, WorkspacePool& pool, Progress* progress,
                  const IndexedWalk& walk);

/// Tiles of a call.
std::size_t tile_count(const Call& call, const TileShape& shape);

/// Calls walk(tile, team, turns, walker) for every tile; tiles never span videos. `walkers` threads walk one tile each,
/// and are numbered; the others help, and so do walkers that find no tile left. Turns run in tile order.
using TileWalk = std::function<void(const Tile&, Team&, Turns&, std::size_t)>;
void walk_tiles_in_order(const Call& call, const TileShape& shape, int threads, std::size_t walkers,
                         const WorkspaceSizes& sizes, WorkspacePool& pool, const TileWalk& walk);

}  // namespace kineograph::engine::cpu

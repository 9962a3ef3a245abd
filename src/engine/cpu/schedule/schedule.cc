#include "engine/cpu/schedule/schedule.h"

#include <tbb/info.h>
#include <tbb/task_arena.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "engine/progress.h"

namespace kineograph::engine::cpu {
namespace {

/// A workspace at least as large as `sizes` in every buffer.
class BorrowedWorkspace : public WorkspacePool::Borrowed {
 public:
  BorrowedWorkspace(WorkspacePool& pool, const WorkspaceSizes& sizes) : Borrowed(pool) {
    Workspace& workspace = **this;
    grow(workspace.x, sizes.x);
    grow(workspace.normed, sizes.normed);
    grow(workspace.attended, sizes.attended);
    grow(workspace.context, sizes.context);
    grow(workspace.window, sizes.window);
    grow(workspace.averaged, sizes.averaged);
    grow(workspace.attended_average, sizes.attended_average);
    grow(workspace.clip_heads, sizes.clip_heads);
    grow(workspace.positions, sizes.positions);
    grow(workspace.qkv, sizes.qkv);
    grow(workspace.scores, sizes.scores);
    grow(workspace.hidden, sizes.hidden);
    grow(workspace.block, sizes.block);
  }
};

/// The threads of a call that have no tile left and may help others with theirs.
class Helpers {
 public:
  /// `idle` of the call's `threads` never have anything.
  Helpers(std::size_t threads, std::size_t idle) : threads_(threads), idle_(idle), free_(idle) {}
  /// One more.
  void join() {
    idle_.fetch_add(1);
    free_.fetch_add(1);
  }
  bool any() const { return free_.load(std::memory_order_relaxed) != 0; }
  /// At most `most` of those that are free now, and no more than are there for each thread at work.
  std::size_t take(std::size_t most) {
    if (!any()) return 0;
    const std::size_t idle = idle_.load(), busy = std::max<std::size_t>(1, threads_ - std::min(threads_, idle));
    most = std::min(most, (idle + busy - 1) / busy);
    std::size_t free = free_.load();
    while (!free_.compare_exchange_weak(free, free - std::min(free, most))) {
    }
    return std::min(free, most);
  }
  void give_back(std::size_t count) { free_.fetch_add(count); }

 private:
  std::size_t threads_;
  std::atomic<std::size_t> idle_, free_;
};

/// One thread that does it all, until others have nothing to do. A thread that waits for its helpers takes up pieces of
/// this phase only: never another tile, whose owner it would then keep waiting.
class Helped : public Team {
 public:
  Helped(Helpers& helpers, Workspace& own, const WorkspaceSizes& sizes, WorkspacePool& pool)
      : helpers_(helpers), own_(own), sizes_(sizes), pool_(pool) {}

 protected:
  void run(std::size_t count, std::size_t step, const RangeWork& work) override {
    if (count == 0) return;
    std::size_t begin = 0;
    for (; begin + step < count && !helpers_.any(); begin += step) work(begin, begin + step, {own_, true});
    const std::size_t left = count - begin;
    const std::size_t helpers = helpers_.take(left - 1);
    if (helpers == 0) return work(begin, count, {own_, true});
    const std::size_t pieces = helpers + 1;
    spread_isolated(
        pieces,
        [&](std::size_t i) {
          const auto piece = [&](const Worker& worker) {
            work(begin + left * i / pieces, begin + left * (i + 1) / pieces, worker);
          };
          if (i == 0) return piece({own_, true});
          const BorrowedWorkspace mine(pool_, sizes_);
          piece({*mine, false});
        },
        tbb::simple_partitioner());
    helpers_.give_back(helpers);
  }

 private:
  Helpers& helpers_;
  Workspace& own_;
  const WorkspaceSizes& sizes_;
  WorkspacePool& pool_;
};

/// Threads that there really are: one that calls from outside an arena asks for no other.
std::size_t threads_here(int threads) {
  if (const Region* const region = host().region) return std::min(static_cast<std::size_t>(threads), region->threads());
  return threads == 1 ? 1 : static_cast<std::size_t>(std::min(threads, tbb::this_task_arena::max_concurrency()));
}

/// The tiles of a call in order. Without tiles_may_span_videos each video is cut by itself.
class Tiling {
 public:
  Tiling(const Call& call, const TileShape& shape) : shape_(shape) {
    segments_ = call.tiles_may_span_videos ? 1 : call.videos;
    segment_pixels_ = call.segment_pixels();
    per_segment_ = (segment_pixels_ + shape.pixels() - 1) / shape.pixels();
  }
  std::size_t size() const { return segments_ * per_segment_; }
  Tile operator[](std::size_t i) const {
    const std::size_t segment = i / per_segment_, within = i % per_segment_ * shape_.pixels();
    Tile tile;
    tile.first = segment * segment_pixels_ + within;
    tile.count = std::min(shape_.pixels(), segment_pixels_ - within);
    tile.shape = shape_;
    tile.shape.runs = (tile.count + shape_.lanes - 1) / shape_.lanes;
    return tile;
  }

 private:
  TileShape shape_;
  std::size_t segments_, segment_pixels_, per_segment_;
};

/// Numbers below `count`, which the threads of a call share out.
class Numbers {
 public:
  explicit Numbers(std::size_t count) : count_(count) {}
  std::optional<std::size_t> take() {
    const std::size_t i = next_++;
    return i < count_ ? std::optional(i) : std::nullopt;
  }
  /// Calls work(), which takes numbers until there is none. After an exception nobody gets any more.
  template <class Work>
  void share(Work&& work) {
    try {
      work();
    } catch (...) {
      next_ = count_;
      throw;
    }
  }

 private:
  std::size_t count_;
  std::atomic<std::size_t> next_{0};
};

/// The tiles of one thread, out of those that all threads share.
class OwnTiles : public TileSource {
 public:
  OwnTiles(const Tiling& tiles, Numbers& numbers) : tiles_(tiles), numbers_(numbers) {}
  const Tile* next() override {
    if (!claimed_) {
      const std::optional<std::size_t> index = numbers_.take();
      there_is_ = index.has_value();
      if (there_is_) tile_ = tiles_[*index];
    }
    claimed_ = true;
    return there_is_ ? &tile_ : nullptr;
  }
  /// The next one, for good.
  std::optional<Tile> take() {
    const Tile* const tile = next();
    claimed_ = false;
    return tile == nullptr ? std::nullopt : std::optional(*tile);
  }

 private:
  const Tiling& tiles_;
  Numbers& numbers_;
  bool claimed_ = false, there_is_ = false;
  Tile tile_;
};

/// Runs `body` on threads of the executor: of a region that is there already, where a processor or handler of a call
/// calls a model, or of one of its own.
void run_in_region(const Lent& lent, int threads, const std::function<void()>& body) {
  Region* const around = host().region;
  const auto in = [&](Region& region) {
    const HostScope scope({&region, lent.memory});
    body();
  };
  if (around != nullptr && &around->executor() == lent.executor) return in(*around);
  Region region(*lent.executor, threads);
  const auto first = [&](std::size_t) { in(region); };
  region.run(IndexWork(first));
}

void run_in_arena(int threads, const std::function<void()>& body) {
  if (threads == 1) return body();
  // More threads than cores only take turns, and oneTBB says so on stderr.
  threads = std::min(threads, tbb::info::default_concurrency());
  // Arenas are kept, and never destroyed: threads may outlive static destructors.
  static std::mutex mutex;
  static auto& arenas = *new std::map<int, std::unique_ptr<tbb::task_arena>>;
  tbb::task_arena* arena = nullptr;
  {
    const std::lock_guard lock(mutex);
    auto& slot = arenas[threads];
    if (!slot) slot = std::make_unique<tbb::task_arena>(threads);
    arena = slot.get();
  }
  arena->execute(body);
}

}  // namespace

void run_on(const Lent& lent, int threads, const std::function<void()>& body) {
  if (lent.executor != nullptr) return run_in_region(lent, threads, body);
  const auto hosted = [&] {
    const HostScope scope({nullptr, lent.memory});
    body();
  };
  run_in_arena(threads, std::cref(hosted));  // a reference: std::function allocates for a lambda of this size
}

void pack_on(const Lent& lent, const std::function<void()>& body) {
  if (lent.executor != nullptr) return run_in_region(lent, std::max(1, lent.executor->concurrency()), body);
  const HostScope scope({nullptr, lent.memory});
  body();
}

void walk_tiles(const Call& call, const Target& target, const TileShape& shape, int threads,
                const WorkspaceSizes& sizes, WorkspacePool& pool) {
  const auto walk = target.walk[static_cast<int>(call.model->arithmetic)];
  const Tiling tiles(call, shape);
  const std::size_t all = threads_here(threads), workers = std::min(all, tiles.size());
  Helpers helpers(all, all - workers);
  Numbers numbers(tiles.size());
  expect(call.inputs->progress, tiles.size());
  const auto work = [&](std::size_t) {
    const BorrowedWorkspace own(pool, sizes);
    Helped team(helpers, *own, sizes, pool);
    OwnTiles mine(tiles, numbers);
    bool gathered = false;
    numbers.share([&] {
      while (const std::optional<Tile> tile = mine.take()) {
        gathered = walk(call, *tile, gathered, &mine, team, *own);
        advance(call.inputs->progress);
      }
    });
    helpers.join();
  };
  if (workers == 1) return work(0);
  spread(workers, work, tbb::simple_partitioner());
}

void walk_indices(std::size_t count, int threads, const WorkspaceSizes& sizes, WorkspacePool& pool, Progress* progress,
                  const IndexedWalk& walk) {
  if (count == 0) return;
  const std::size_t all = threads_here(threads), workers = std::min(all, count);
  Helpers helpers(all, all - workers);
  Numbers numbers(count);
  const auto work = [&](std::size_t) {
    const BorrowedWorkspace own(pool, sizes);
    Helped team(helpers, *own, sizes, pool);
    numbers.share([&] {
      while (const std::optional<std::size_t> i = numbers.take()) {
        walk(*i, team, *own);
        advance(progress);
      }
    });
    helpers.join();
  };
  if (workers == 1) return work(0);
  spread(workers, work, tbb::simple_partitioner());
}

std::size_t tile_count(const Call& call, const TileShape& shape) { return Tiling(call, shape).size(); }

void walk_tiles_in_order(const Call& call, const TileShape& shape, int threads, std::size_t walkers,
                         const WorkspaceSizes& sizes, WorkspacePool& pool, const TileWalk& walk) {
  const Tiling tiles(call, shape);
  std::vector<std::atomic<std::uint32_t>> done(tiles.size());
  Numbers numbers(tiles.size());
  expect(call.inputs->progress, tiles.size());
  const std::size_t all = std::max(threads_here(threads), walkers);
  Helpers helpers(all, all - walkers);
  // Only its successor waits for a tile, and the thread that took it is at work on it: the first never waits.
  const auto work = [&](std::size_t walker) {
    const BorrowedWorkspace own(pool, sizes);
    Helped team(helpers, *own, sizes, pool);
    numbers.share([&] {
      while (const std::optional<std::size_t> i = numbers.take()) {
        {
          Turns turns(*i == 0 ? nullptr : &done[*i - 1], done[*i]);
          walk(tiles[*i], team, turns, walker);
        }
        advance(call.inputs->progress);
      }
    });
    helpers.join();
  };
  if (walkers == 1) return work(0);
  spread(walkers, work, tbb::simple_partitioner());
}

}  // namespace kineograph::engine::cpu

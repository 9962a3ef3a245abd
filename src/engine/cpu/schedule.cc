#include "engine/cpu/schedule.h"

#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <thread>

namespace kineograph::engine::cpu {
namespace {

class Borrowed {
 public:
  Borrowed(WorkspacePool& pool, const WorkspaceSizes& sizes) : pool_(pool), workspace_(pool.acquire(sizes)) {}
  ~Borrowed() { pool_.release(std::move(workspace_)); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  Workspace& operator*() const { return *workspace_; }

 private:
  WorkspacePool& pool_;
  std::unique_ptr<Workspace> workspace_;
};

/// One thread does it all.
class Solo : public Team {
 public:
  explicit Solo(Workspace& own) : own_(own) {}

 protected:
  void run(std::size_t count, const RangeWork& work) override { work(0, count, own_); }

 private:
  Workspace& own_;
};

/// Cuts each phase among the arena's threads. A thread that waits takes up pieces of this phase only: never another
/// tile, whose owner it would then keep waiting.
class Together : public Team {
 public:
  Together(int threads, const WorkspaceSizes& sizes, WorkspacePool& pool)
      : threads_(static_cast<std::size_t>(threads)), sizes_(sizes), pool_(pool) {}

 protected:
  void run(std::size_t count, const RangeWork& work) override {
    const std::size_t pieces = std::min(count, threads_);
    tbb::this_task_arena::isolate([&] {
      tbb::parallel_for(
          std::size_t{0}, pieces,
          [&](std::size_t i) {
            const Borrowed mine(pool_, sizes_);
            work(count * i / pieces, count * (i + 1) / pieces, *mine);
          },
          tbb::simple_partitioner());
    });
  }

 private:
  std::size_t threads_;
  const WorkspaceSizes& sizes_;
  WorkspacePool& pool_;
};

/// The tiles of a call in order. Without tiles_may_span_videos each video is cut by itself.
class Tiling {
 public:
  Tiling(const Call& call, const TileShape& shape) : shape_(shape) {
    segments_ = call.tiles_may_span_videos ? 1 : call.videos;
    segment_pixels_ = call.tiles_may_span_videos ? call.videos * call.pixels : call.pixels;
    per_segment_ = (segment_pixels_ + shape.pixels() - 1) / shape.pixels();
  }
  std::size_t size() const { return segments_ * per_segment_; }
  Tile operator[](std::size_t i) const {
    const std::size_t segment = i / per_segment_, within = i % per_segment_ * shape_.pixels();
    Tile tile;
    tile.first = segment * segment_pixels_ + within;
    tile.count = std::min(shape_.pixels(), segment_pixels_ - within);
    tile.shape = shape_;
    tile.shape.groups = (tile.count + shape_.lanes - 1) / shape_.lanes;
    return tile;
  }

 private:
  TileShape shape_;
  std::size_t segments_, segment_pixels_, per_segment_;
};

/// The tiles of one thread, out of a counter that all threads share.
class OwnTiles : public TileSource {
 public:
  OwnTiles(const Tiling& tiles, std::size_t alone, std::atomic<std::size_t>& counter)
      : tiles_(tiles), alone_(alone), counter_(counter) {}
  const Tile* next() override {
    claim();
    if (index_ >= alone_) return nullptr;
    tile_ = tiles_[index_];
    return &tile_;
  }
  /// The next one's index; none if it is not below tiles.size().
  std::size_t take() {
    claim();
    claimed_ = false;
    return index_;
  }

 private:
  void claim() {
    if (!claimed_) index_ = counter_++;
    claimed_ = true;
  }
  const Tiling& tiles_;
  std::size_t alone_;
  std::atomic<std::size_t>& counter_;
  bool claimed_ = false;
  std::size_t index_ = 0;
  Tile tile_;
};

}  // namespace

std::unique_ptr<Workspace> WorkspacePool::acquire(const WorkspaceSizes& sizes) {
  std::unique_ptr<Workspace> workspace;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      workspace = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (!workspace) workspace = std::make_unique<Workspace>();
  grow(workspace->x, sizes.x);
  grow(workspace->image, sizes.image);
  grow(workspace->normed, sizes.normed);
  grow(workspace->attended, sizes.attended);
  grow(workspace->context, sizes.context);
  grow(workspace->qkv, sizes.qkv);
  grow(workspace->scores, sizes.scores);
  grow(workspace->hidden, sizes.hidden);
  grow(workspace->block, sizes.block);
  return workspace;
}

void WorkspacePool::release(std::unique_ptr<Workspace> workspace) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(workspace));
}

WorkspaceSizes workspace_sizes(const PackedModel& model, const TileShape& shape, std::size_t context_tokens,
                               std::size_t context_dim) {
  const std::size_t panel = 2 * shape.lanes, panels = shape.panels();
  // A pair of bf16 channels takes half the words of a pair of f32 ones.
  const std::size_t pair_words = is_paired(model.arithmetic) ? panel : 2 * panel;
  const auto operand = [&](std::size_t channels, std::size_t count) {
    return count * pad_channels(channels) / 2 * pair_words;
  };
  const std::size_t context_panels = (context_tokens * shape.groups + 1) / 2;
  WorkspaceSizes sizes;
  sizes.x = panels * pad_channels(model.inner) * panel;
  sizes.image = operand(model.channels, panels);
  sizes.normed = operand(model.inner, panels);
  sizes.attended = operand(model.inner, panels);
  sizes.context = operand(context_dim, context_panels);
  const std::size_t q_rows = pad_channels(model.head_dim), kv_rows = 2 * model.head_dim;
  sizes.qkv = (panels * q_rows + std::max(panels, context_panels) * kv_rows) * panel;
  const std::size_t keys = std::max(context_tokens, shape.frames);
  // Values of bf16 pairs (OwnHeadInPairs); their queries and keys take half.
  if (model.arithmetic == Arithmetic::bf16) sizes.qkv += round_up(keys, 4) / 4 * model.head_dim * panel;
  // Sixteen queries' scores; or one panel's scores and outputs; or one panel's class logits.
  sizes.scores =
      std::max({16 * keys * shape.lanes, (pad_channels(context_tokens) + q_rows) * panel, model.out.rows * panel});
  sizes.hidden = operand(model.hidden_chunk, panels);
  sizes.block = 2 * block_rows(model.arithmetic, 16) * panel;  // two blocks of rows
  return sizes;
}

int resolve_threads(int asked) {
  if (asked > 0) return asked;
  if (const char* text = std::getenv("KINEOGRAPH_NUM_THREADS")) {
    const int value = std::atoi(text);
    if (value > 0) return value;
  }
  return tbb::info::default_concurrency();
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

void walk_tiles(const Call& call, const Target& target, Arithmetic arithmetic, const TileShape& shape, int threads,
                const WorkspaceSizes& sizes, WorkspacePool& pool) {
  const auto walk = target.walk[static_cast<int>(arithmetic)];
  const Tiling tiles(call, shape);
  const auto workers = static_cast<std::size_t>(threads);
  const std::size_t alone = workers == 1 ? tiles.size() : tiles.size() / workers * workers;
  std::atomic<std::size_t> counter{0};
  const auto work = [&](std::size_t) {
    const Borrowed own(pool, sizes);
    OwnTiles mine(tiles, alone, counter);
    bool gathered = false;
    for (std::size_t i = mine.take(); i < tiles.size(); i = mine.take()) {
      const Tile tile = tiles[i];
      if (i < alone) {
        Solo team(*own);
        gathered = walk(call, tile, gathered, &mine, team, *own);
      } else {
        Together team(threads, sizes, pool);
        walk(call, tile, false, nullptr, team, *own);
      }
    }
  };
  if (workers == 1) return work(0);
  tbb::parallel_for(std::size_t{0}, workers, work, tbb::simple_partitioner());
}

std::size_t tile_count(const Call& call, const TileShape& shape) { return Tiling(call, shape).size(); }

void walk_tiles_in_order(const Call& call, const TileShape& shape, int threads, std::size_t walkers,
                         const WorkspaceSizes& sizes, WorkspacePool& pool, const TileWalk& walk) {
  const Tiling tiles(call, shape);
  std::vector<std::atomic<std::uint32_t>> done(tiles.size());
  std::atomic<std::size_t> counter{0};
  const std::size_t at_once = tiles.size() / walkers * walkers;
  // A tile is waited for by the next one only, and whoever has taken it is at work on it: the first never waits.
  const auto take = [&](std::size_t end, std::size_t walker, int together) {
    const Borrowed own(pool, sizes);
    Solo alone(*own);
    Together shared(together, sizes, pool);
    Team& team = together == 1 ? static_cast<Team&>(alone) : shared;
    for (std::size_t i = counter++; i < end; i = counter++) {
      Turns turns(i == 0 ? nullptr : &done[i - 1], done[i]);
      walk(tiles[i], team, turns, walker);
    }
  };
  if (walkers > 1) {
    const int together = threads / static_cast<int>(walkers);
    tbb::parallel_for(
        std::size_t{0}, walkers, [&](std::size_t walker) { take(at_once, walker, together); },
        tbb::simple_partitioner());
    counter = at_once;
  }
  take(tiles.size(), 0, threads);
}

}  // namespace kineograph::engine::cpu

// A tile, and the threads that walk it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "engine/cpu/pack/layout.h"
#include "engine/cpu/tile/workspace.h"

namespace kineograph::engine::cpu {

/// A tile: pixels [first, first + count) of all videos' pixels in a row.
struct Tile {
  std::size_t first = 0, count = 0;
  TileShape shape;
};

/// Runs of N pixels of the widest tile of a forward: see choose_tile.
inline constexpr std::size_t kMaxRuns = 24;

/// Names the tile that a walk's thread takes next. Asked late: a tile that is spoken for waits for its thread.
class TileSource {
 public:
  virtual ~TileSource() = default;
  /// Null when there is none left.
  virtual const Tile* next() = 0;
};

/// A thread at work on a tile: with the workspace of the tile, or helping with one of its own.
struct Worker {
  Workspace& memory;
  bool owns_tile;
  operator Workspace&() const { return memory; }
};

/// A reference to a piece of work on [begin, end) by one thread; unlike std::function it never allocates.
class RangeWork {
 public:
  template <class Work>
  explicit RangeWork(Work& work)
      : work_(&work), call_([](void* w, std::size_t begin, std::size_t end, const Worker& worker) {
          (*static_cast<Work*>(w))(begin, end, worker);
        }) {}
  void operator()(std::size_t begin, std::size_t end, const Worker& worker) const { call_(work_, begin, end, worker); }

 private:
  void* work_;
  void (*call_)(void*, std::size_t, std::size_t, const Worker&);
};

/// Runs the phases of a tile: one thread, and those that are free to help.
class Team {
 public:
  virtual ~Team() = default;
  /// Calls work(begin, end, worker) over disjoint ranges that make up [0, count), as long as
  /// can be: neighbours read the same memory.
  template <class Work>
  void for_ranges(std::size_t count, Work&& work) {
    run(count, count, RangeWork(work));
  }
  /// The same, with help that comes at every `step`.
  template <class Work>
  void for_steps(std::size_t count, std::size_t step, Work&& work) {
    run(count, step, RangeWork(work));
  }
  /// The same for pieces that share nothing: ranges may be short, for help that comes late.
  template <class Work>
  void for_each(std::size_t count, Work&& work) {
    run(count, 1, RangeWork(work));
  }

 protected:
  /// `step`: the shortest range where one thread does it all.
  virtual void run(std::size_t count, std::size_t step, const RangeWork& work) = 0;
};

/// The turns of a tile among those that are walked at once. A tile's n-th in_turn section starts after its
/// predecessor's n-th ends, so sums keep the tiles' order and tiles follow each other closely.
class Turns {
 public:
  /// Counters of finished sections: of the tile before, if any, and of this one.
  Turns(std::atomic<std::uint32_t>* before, std::atomic<std::uint32_t>& own) : before_(before), own_(own) {}
  /// A tile that ends, if by an exception, lets its successor go on.
  ~Turns() { set(kAll); }
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  template <class Work>
  void in_turn(Work&& work) {
    if (before_ != nullptr)
      for (std::uint32_t n = before_->load(std::memory_order_acquire); n <= count_;
           n = before_->load(std::memory_order_acquire))
        before_->wait(n, std::memory_order_acquire);
    work();
    set(++count_);
  }

 private:
  static constexpr std::uint32_t kAll = ~std::uint32_t{0};
  void set(std::uint32_t count) {
    own_.store(count, std::memory_order_release);
    own_.notify_all();
  }
  std::atomic<std::uint32_t>* before_;
  std::atomic<std::uint32_t>& own_;
  std::uint32_t count_ = 0;
};

}  // namespace kineograph::engine::cpu

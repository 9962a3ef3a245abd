// One forward call, as the tiles see it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/cpu/pack/layout.h"
#include "engine/engine.h"

namespace kineograph::engine::cpu {

/// The caller's (B*F, C, H, W) memory; strides count elements.
struct Image {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t stride_n = 0, stride_c = 0, stride_h = 0, stride_w = 0;
};

/// What norms and residuals of one block do for one video.
struct Modulation {
  Affine norm[3];
  const float* gate_attn1 = nullptr;  ///< I factors of attn1's output, padded with zero to even, or null for 1
  const float* gate_ff = nullptr;     ///< I factors of ff's output, padded alike, or null for 1
};

/// Keys and values of a conditioning that all pixels of a video share, for one attention of one video: per head, keys
/// (S, head_dim) as a linear map of queries to scores, values (head_dim, S) as one of probabilities to outputs.
struct SharedContext {
  std::vector<PackedLinear> keys, values;
};

/// Where a conditioning that differs from pixel to pixel lies: (B*H*W, S, D).
struct PixelContext {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t stride_row = 0, stride_token = 0, stride_channel = 0;
};

struct Call {
  const PackedModel* model = nullptr;
  std::size_t videos = 0, frames = 0, height = 0, width = 0;
  std::size_t pixels = 0;  ///< H * W
  Image input, output;
  const Inputs* inputs = nullptr;

  /// (x - mean[c]) * scale[c] + shift[c] is the input GroupNorm; a set of C values a video, or a frame.
  const float* group_mean = nullptr;
  const float* group_scale = nullptr;
  const float* group_shift = nullptr;
  bool group_set_per_frame = false;

  /// [layer * videos + video]
  std::vector<Modulation> modulations;

  std::size_t context_tokens = 0;  ///< S; 0: attn2 attends to the frames
  std::size_t context_dim = 0;     ///< D
  /// [layer * videos + video] when the conditioning is per video
  std::vector<SharedContext> shared_context;
  PixelContext pixel_context;

  /// Two a layer; null for the default.
  std::vector<AttentionProcessor*> processors;

  const Modulation& modulation(std::size_t layer, std::size_t video) const {
    return modulations[layer * videos + video];
  }
  bool tiles_may_span_videos = false;
};

/// A tile: pixels [first, first + count) of all videos' pixels in a row.
struct Tile {
  std::size_t first = 0, count = 0;
  TileShape shape;
};

/// Where a walk learns which tile its thread takes next. Asked late: a tile that is spoken for waits for its thread.
class TileSource {
 public:
  virtual ~TileSource() = default;
  /// Null when there is none left.
  virtual const Tile* next() = 0;
};

/// Memory of one thread, reused from tile to tile. Sizes are for the largest tile of a call.
struct Workspace {
  // Of the tile, shared by the threads that work on it.
  Buffer<float> x;                 ///< residual stream [panel][inner][2N]
  Buffer<std::uint32_t> normed;    ///< LayerNorm's output [panel][inner]; at last what proj_out takes
  Buffer<std::uint32_t> attended;  ///< the input, normalised [panel][C]; then attention's output [panel][inner]
  Buffer<std::uint32_t> context;   ///< per-pixel conditioning [panel][D]
  // Of the thread.
  Buffer<float> qkv;             ///< one head [panel][3 head_dim]
  Buffer<float> scores;          ///< a few queries x all keys
  Buffer<std::uint32_t> hidden;  ///< a chunk of the feed-forward [panel][hidden_chunk]
  Buffer<float> block;           ///< what a kernel leaves for an epilogue; in L1
  std::size_t bytes() const noexcept {
    return x.bytes() + normed.bytes() + attended.bytes() + context.bytes() + qkv.bytes() + scores.bytes() +
           hidden.bytes() + block.bytes();
  }
};

/// A reference to a piece of work on [begin, end) with a thread's own workspace; unlike std::function it never
/// allocates.
class RangeWork {
 public:
  template <class Work>
  explicit RangeWork(Work& work)
      : work_(&work), call_([](void* w, std::size_t begin, std::size_t end, Workspace& mine) {
          (*static_cast<Work*>(w))(begin, end, mine);
        }) {}
  void operator()(std::size_t begin, std::size_t end, Workspace& mine) const { call_(work_, begin, end, mine); }

 private:
  void* work_;
  void (*call_)(void*, std::size_t, std::size_t, Workspace&);
};

/// Runs the phases of a tile: one thread, and whoever is free to help.
class Team {
 public:
  virtual ~Team() = default;
  /// Calls work(begin, end, workspace of the calling thread) over disjoint ranges that make up [0, count), as long as
  /// can be: neighbours share what is read.
  template <class Work>
  void for_ranges(std::size_t count, Work&& work) {
    run(count, count, RangeWork(work));
  }
  /// The same for what shares nothing: ranges may be short, for help that comes late.
  template <class Work>
  void for_each(std::size_t count, Work&& work) {
    run(count, 1, RangeWork(work));
  }

 protected:
  /// `step`: the shortest range where one thread does it all.
  virtual void run(std::size_t count, std::size_t step, const RangeWork& work) = 0;
};

/// The turns of a tile among those that are walked at once: what it does for the n-th time in turn comes after what the
/// tile before it did for the n-th time. So sums over tiles have one order, and tiles follow each other closely.
class Turns {
 public:
  /// Counts what has been done: by the tile before, if any, and by this one.
  Turns(std::atomic<std::uint32_t>* before, std::atomic<std::uint32_t>& own) : before_(before), own_(own) {}
  /// A tile that ends, if by an exception, keeps nobody waiting.
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

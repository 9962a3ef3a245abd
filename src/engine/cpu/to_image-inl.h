// proj_out's sums on their way to the image: the residual is added, and the next tile's pixels are fetched meanwhile.
#if defined(KINEOGRAPH_CPU_TO_IMAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_TO_IMAGE_INL_H_
#undef KINEOGRAPH_CPU_TO_IMAGE_INL_H_
#else
#define KINEOGRAPH_CPU_TO_IMAGE_INL_H_
#endif

#include <type_traits>

#include "engine/cpu/gemm-inl.h"
#include "engine/cpu/image-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// A block's pixels on their way to the image.
template <class T>
struct Leaving {
  const T* from = nullptr;  ///< [rows][2N]
  T* to[2] = {};            ///< where its two vectors go, to_step between rows
  std::ptrdiff_t to_step = 0;
  std::size_t rows = 0;
  HWY_INLINE void DeliverRow() {
    for (std::size_t slot = 0; slot < 2; ++slot) CopyPixels(from + slot * kLanes, to[slot]);
    Skip(1);
  }
  HWY_INLINE void Skip(std::size_t count) {
    from += count * kPanel;
    for (T*& t : to) t += static_cast<std::ptrdiff_t>(count) * to_step;
    rows -= count;
  }
};

/// Beside reading ahead, a kernel hands the pixels of the block before it to the image, row by row: all at once they
/// would fill the buffers of stores and stall.
template <class T>
struct Delivery : ReadAhead {
  const char* arriving[2] = {};  ///< lines of the next tile, for the L2 cache
  std::ptrdiff_t arriving_step = 0;
  Leaving<T> leaving;

  HWY_INLINE void Step() {
    ReadAhead::Step();
    for (std::size_t slot = 0; slot < 2; ++slot) {
      __builtin_prefetch(arriving[slot], 0, 2);
      arriving[slot] += arriving_step;
    }
    if (leaving.rows != 0) leaving.DeliverRow();
  }
};

/// Rows [row, row + count) of one panel of a tile's input, normalised, into operands [channels][2N]; row is even.
template <Arithmetic kArithmetic, class T>
HWY_INLINE void GatherRows(const Call& call, const PixelGroup* groups, const TileShape& shape, std::size_t panel,
                           std::size_t row, std::size_t count, std::uint32_t* operands) {
  const std::size_t channels = call.model->channels, end = std::min(row + count, channels);
  for (std::size_t slot = 0; slot < 2; ++slot) {
    // Past the last vector the last one is repeated: finite numbers that nobody reads.
    const std::size_t v = std::min(2 * panel + slot, shape.vectors() - 1);
    const PixelGroup& g = groups[v % shape.groups];
    const std::size_t frame = v / shape.groups;
    std::uint32_t* to = operands + row / 2 * kPairWords<kArithmetic> + slot * kLanes;
    for (std::size_t c = row; c < end; c += 2, to += kPairWords<kArithmetic>) {
      const Vec even = GatherNormalised<T>(call, g, frame, c);
      const Vec odd = c + 1 < channels ? GatherNormalised<T>(call, g, frame, c + 1) : hn::Zero(D());
      StoreOperandPair<kArithmetic>(even, odd, to);
    }
  }
}

/// The tile that comes after the present one, and where its normalised input goes.
struct NextTile {
  const PixelGroup* groups = nullptr;
  std::uint32_t* image = nullptr;
  std::size_t panel_words = 0;
};

/// Adds the input's pixels to the sums and writes the output's; gathers the same rows of the next tile, if any.
template <Arithmetic kArithmetic, class In, class Out>
class ToImage {
 public:
  /// Pixels that are not converted on their way: the next tile's come while these leave.
  static constexpr bool kGathers = std::is_same_v<In, Out> && !std::is_same_v<Out, f16>;
  /// Kernels deliver them. Beside the matrix unit there is time to do it all in Take.
  static constexpr bool kDelivers = kGathers && kArithmetic != Arithmetic::bf16_tiles;
  using Side = std::conditional_t<kDelivers, Delivery<Out>, ReadAhead>;
  static constexpr Sum kSum = Sum::store;

  /// `steps`: how often a kernel calls Side::Step. `memory`: room for the sums and the pixels of a block.
  ToImage(const Call& call, const PixelGroup* groups, const TileShape& shape, const NextTile& next, std::size_t steps,
          float* memory)
      : call_(call),
        groups_(groups),
        shape_(shape),
        next_(next),
        steps_(steps),
        block_(memory),
        pixels_(reinterpret_cast<Out*>(memory + kBlockRows<kArithmetic> * kPanel)) {
    regular_ = kDelivers && shape.vectors() % 2 == 0;
    for (std::size_t g = 0; g < shape.groups; ++g) regular_ = regular_ && groups[g].whole;
  }

  HWY_INLINE void Before(std::size_t row, std::size_t, std::size_t panel, Side& side) {
    for (std::size_t slot = 0; slot < 2; ++slot) {
      side.line[2 + slot] = reinterpret_cast<const char*>(InputAt(groups_, panel, slot, row));
      side.step[2 + slot] = call_.input.stride_c * static_cast<std::ptrdiff_t>(sizeof(In));
    }
    if constexpr (kDelivers) {
      for (std::size_t slot = 0; slot < 2; ++slot)
        side.arriving[slot] = next_.groups == nullptr
                                  ? side.line[2 + slot]
                                  : reinterpret_cast<const char*>(InputAt(next_.groups, panel, slot, row));
      side.arriving_step = side.step[2];
      side.leaving = left_;
    }
  }

  HWY_INLINE float* Target(std::size_t, std::size_t) const { return block_; }

  HWY_INLINE void After(std::size_t row, std::size_t count, std::size_t panel) {
    const std::size_t channels = std::min(count, call_.model->channels - row);  // the last may be padding
    if constexpr (kDelivers) {
      // The kernel had a copy of what was left.
      DeliverRest(std::min(left_.rows, steps_));
      GatherNext(row, count, panel);
      if (regular_) return Leave(row, channels, panel);
    }
    Scatter(block_, row, panel, 0, channels);
  }

  static constexpr bool kInPlace = false;
  HWY_INLINE void Take(const float* sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) {
    if constexpr (kGathers) {
      GatherNext(row + begin, end - begin, panel);
      if (next_.groups != nullptr)
        for (std::size_t slot = 0; slot < 2; ++slot)
          for (std::size_t i = row + begin + kTileBlockRows; i < row + end + kTileBlockRows; ++i)
            __builtin_prefetch(InputAt(next_.groups, panel, slot, i), 0, 2);
    }
    Scatter(sums, row, panel, begin, std::min(end, call_.model->channels - row));
  }

  /// After the last block.
  void Finish() {
    if constexpr (kDelivers) DeliverRest(0);
  }

 private:
  const In* InputAt(const PixelGroup* groups, std::size_t panel, std::size_t slot, std::size_t row) const {
    const std::size_t v = std::min(2 * panel + slot, shape_.vectors() - 1);
    return reinterpret_cast<const In*>(call_.input.data) + groups[v % shape_.groups].input[0] +
           static_cast<std::int64_t>(v / shape_.groups) * call_.input.stride_n +
           static_cast<std::int64_t>(row) * call_.input.stride_c;
  }

  HWY_INLINE void GatherNext(std::size_t row, std::size_t count, std::size_t panel) {
    if (next_.groups != nullptr)
      GatherRows<kArithmetic, In>(call_, next_.groups, shape_, panel, row, count,
                                  next_.image + panel * next_.panel_words);
  }

  /// Rows [begin, end) of the sums of a block that starts at `row`, straight to the image.
  HWY_INLINE void Scatter(const float* sums, std::size_t row, std::size_t panel, std::size_t begin, std::size_t end) {
    for (std::size_t slot = 0; slot < 2; ++slot) {
      const std::size_t v = 2 * panel + slot;
      if (v >= shape_.vectors()) break;
      for (std::size_t i = begin; i < end; ++i)
        ScatterResidual<In, Out>(call_, groups_[v % shape_.groups], v / shape_.groups, row + i,
                                 hn::Load(D(), sums + i * kPanel + slot * kLanes));
    }
  }

  /// A block's pixels, for the next kernel to deliver.
  HWY_INLINE void Leave(std::size_t row, std::size_t channels, std::size_t panel) {
    left_.from = pixels_;
    left_.rows = channels;
    left_.to_step = call_.output.stride_c;
    for (std::size_t slot = 0; slot < 2; ++slot) {
      const std::size_t v = 2 * panel + slot;
      const In* in = InputAt(groups_, panel, slot, row);
      left_.to[slot] = reinterpret_cast<Out*>(call_.output.data) + groups_[v % shape_.groups].output[0] +
                       static_cast<std::int64_t>(v / shape_.groups) * call_.output.stride_n +
                       static_cast<std::int64_t>(row) * call_.output.stride_c;
      for (std::size_t i = 0; i < channels; ++i, in += call_.input.stride_c) {
        const std::size_t at = i * kPanel + slot * kLanes;
        StorePixels(hn::Add(hn::Load(D(), block_ + at), LoadPixels(in)), pixels_ + at);
      }
    }
  }

  void DeliverRest(std::size_t done) {
    left_.Skip(done);
    while (left_.rows != 0) left_.DeliverRow();
  }

  const Call& call_;
  const PixelGroup* groups_;
  TileShape shape_;
  NextTile next_;
  std::size_t steps_;
  float* block_;
  Out* pixels_;   ///< that leave
  bool regular_;  ///< whole vectors only
  Leaving<Out> left_;
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

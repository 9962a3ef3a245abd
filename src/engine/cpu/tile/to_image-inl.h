// proj_out's sums on their way to the image, where the residual is added.
#if defined(KINEOGRAPH_CPU_TILE_TO_IMAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_TILE_TO_IMAGE_INL_H_
#undef KINEOGRAPH_CPU_TILE_TO_IMAGE_INL_H_
#else
#define KINEOGRAPH_CPU_TILE_TO_IMAGE_INL_H_
#endif

#include <type_traits>
#include <utility>

#include "engine/cpu/kernels/epilogue-inl.h"
#include "engine/cpu/tile/from_image-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// A block's pixels on their way to the image: f32 sums, which meet the input's pixels as they go, or pixels of another
/// type that are ready.
template <class T>
struct Leaving {
  static constexpr bool kAdds = std::is_same_v<T, float>;
  const T* from = nullptr;    ///< [rows][2N]
  const T* residual[2] = {};  ///< the two vectors' input, residual_step between rows
  T* to[2] = {};              ///< where they go, to_step between rows
  std::ptrdiff_t residual_step = 0, to_step = 0;
  std::size_t rows = 0;
  HWY_INLINE void DeliverRow() {
    for (std::size_t slot = 0; slot < 2; ++slot) {
      if constexpr (kAdds)
        StreamPixels(hn::Add(hn::Load(D(), from + slot * kLanes), LoadPixels(residual[slot])), to[slot]);
      else
        CopyPixels(from + slot * kLanes, to[slot]);
    }
    from += kPanel;
    for (std::size_t slot = 0; slot < 2; ++slot) {
      residual[slot] += residual_step;
      to[slot] += to_step;
    }
    --rows;
  }
};

/// Beside reading ahead, a kernel hands the pixels of the block before it to the image, row by row: all at once they
/// would fill the buffers of stores and stall.
template <class T>
struct Delivery : ReadAhead {
  Leaving<T> leaving;

  HWY_INLINE void Step() {
    ReadAhead::Step();
    if (leaving.rows != 0) leaving.DeliverRow();
  }
};

/// Adds the input's pixels to the sums and writes the output's.
template <Arithmetic kArithmetic, class In, class Out>
class ToImage {
 public:
  /// Kernels deliver pixels that are not converted. Beside the matrix unit there is time to do it all in Take.
  static constexpr bool kDelivers =
      std::is_same_v<In, Out> && !std::is_same_v<Out, f16> && kArithmetic != Arithmetic::bf16_amx;
  using Side = std::conditional_t<kDelivers, Delivery<Out>, ReadAhead>;
  static constexpr bool kBuffered = true, kInPlace = false;

  /// `first`: the tile's panel that the product calls 0. `memory`: room for the sums and the pixels of a block.
  ToImage(const Call& call, const PixelRun* runs, const TileShape& shape, std::size_t first, float* memory)
      : call_(call),
        runs_(runs),
        shape_(shape),
        first_(first),
        block_(memory),
        pixels_(reinterpret_cast<Out*>(memory + kBlockRows<kArithmetic> * kPanel)) {
    regular_ = kDelivers && shape.vectors() % 2 == 0;
    for (std::size_t g = 0; g < shape.runs; ++g) regular_ = regular_ && runs[g].whole;
  }

  HWY_INLINE void Before(std::size_t row, std::size_t, std::size_t panel, Side& side) {
    if (panel != panel_) places_ = PanelPlaces(runs_, shape_, first_ + panel);
    panel_ = panel;
    for (std::size_t slot = 0; slot < 2; ++slot) {
      side.line[1 + slot] = reinterpret_cast<const char*>(InputAt<In>(call_, places_.slot[slot], row));
      side.step[1 + slot] = call_.input.stride_c * static_cast<std::ptrdiff_t>(sizeof(In));
    }
    if constexpr (kDelivers) side.leaving = left_;
  }

  HWY_INLINE float* Target(std::size_t, std::size_t) const { return block_; }

  /// Delivers the rows that the kernel had no steps for: their memory is needed for the next block.
  HWY_INLINE void After(const Side& side) {
    if constexpr (kDelivers) {
      left_ = side.leaving;
      DeliverRest();
    }
  }

  HWY_INLINE void Take(const MemorySums& sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) {
    end = std::min(end, call_.model->channels - row);  // the last row may be padding
    if constexpr (kDelivers) {
      if (regular_) return Leave(row, end);
    }
    Scatter(sums, row, first_ + panel, begin, end);
  }

  /// After the last block.
  void Finish() {
    if constexpr (kDelivers) DeliverRest();
  }

 private:
  /// Rows [begin, end) of the sums of a block that starts at `row`, straight to the image.
  HWY_INLINE void Scatter(const MemorySums& sums, std::size_t row, std::size_t panel, std::size_t begin,
                          std::size_t end) {
    for (std::size_t slot = 0; slot < 2; ++slot) {
      const std::size_t v = 2 * panel + slot;
      if (v >= shape_.vectors()) break;
      for (std::size_t i = begin; i < end; ++i)
        ScatterResidual<In, Out>(call_, runs_[v % shape_.runs], v / shape_.runs, row + i, sums(i, slot));
    }
  }

  /// A block's pixels, for the next kernel to deliver.
  HWY_INLINE void Leave(std::size_t row, std::size_t channels) {
    left_.rows = channels;
    left_.residual_step = call_.input.stride_c;
    left_.to_step = call_.output.stride_c;
    for (std::size_t slot = 0; slot < 2; ++slot) {
      const Place& place = places_.slot[slot];
      left_.residual[slot] = InputAt<In>(call_, place, row);
      left_.to[slot] = reinterpret_cast<Out*>(call_.output.data) + place.run->output[0] +
                       static_cast<std::int64_t>(place.frame) * call_.output.stride_n +
                       static_cast<std::int64_t>(row) * call_.output.stride_c;
    }
    if constexpr (Leaving<Out>::kAdds) {
      std::swap(block_, pixels_);
    } else {
      for (std::size_t i = 0; i < channels; ++i)
        for (std::size_t slot = 0; slot < 2; ++slot) {
          const std::size_t at = i * kPanel + slot * kLanes;
          const In* residual = left_.residual[slot] + static_cast<std::ptrdiff_t>(i) * left_.residual_step;
          StorePixels(hn::Add(hn::Load(D(), block_ + at), LoadPixels(residual)), pixels_ + at);
        }
    }
    left_.from = pixels_;
  }

  void DeliverRest() {
    while (left_.rows != 0) left_.DeliverRow();
  }

  const Call& call_;
  const PixelRun* runs_;
  TileShape shape_;
  std::size_t first_;  ///< the tile's panel that the product calls 0
  float* block_;       ///< sums
  Out* pixels_;        ///< sums or pixels that leave
  bool regular_;       ///< whole vectors only
  Leaving<Out> left_;
  PanelPlaces places_;
  std::size_t panel_ = ~std::size_t{0};  ///< of places_
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

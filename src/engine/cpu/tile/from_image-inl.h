// A tile's pixels on their way into operands.
#if defined(KINEOGRAPH_CPU_TILE_FROM_IMAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_TILE_FROM_IMAGE_INL_H_
#undef KINEOGRAPH_CPU_TILE_FROM_IMAGE_INL_H_
#else
#define KINEOGRAPH_CPU_TILE_FROM_IMAGE_INL_H_
#endif

#include "engine/cpu/tile/image-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// The pixels of a vector of a tile.
struct Place {
  const PixelRun* run = nullptr;
  std::size_t frame = 0;
};

/// The places of a panel's two vectors. Past the last vector the last one is repeated: finite numbers that are not
/// read.
struct PanelPlaces {
  Place slot[2];
  PanelPlaces() = default;
  PanelPlaces(const PixelRun* runs, const TileShape& shape, std::size_t panel) {
    for (std::size_t i = 0; i < 2; ++i) {
      const std::size_t v = std::min(2 * panel + i, shape.vectors() - 1);
      slot[i] = {runs + v % shape.runs, v / shape.runs};
    }
  }
};

/// Address of a vector's channel c in the input.
template <class T>
HWY_INLINE const T* InputAt(const Call& call, const Place& place, std::size_t c) {
  return reinterpret_cast<const T*>(call.input.data) + place.run->input[0] +
         static_cast<std::int64_t>(place.frame) * call.input.stride_n +
         static_cast<std::int64_t>(c) * call.input.stride_c;
}

/// Rows [row, row + count) of one panel of a tile's input, normalised, into operands [channels][2N]; row is even.
template <Arithmetic kArithmetic, class T>
HWY_INLINE void GatherRows(const Call& call, const PanelPlaces& places, std::size_t row, std::size_t count,
                           std::uint32_t* operands) {
  const std::size_t channels = call.model->channels, end = std::min(row + count, channels);
  for (std::size_t slot = 0; slot < 2; ++slot) {
    const auto& [run, frame] = places.slot[slot];
    std::uint32_t* to = operands + row / 2 * kPairWords<kArithmetic> + slot * kLanes;
    for (std::size_t c = row; c < end; c += 2, to += kPairWords<kArithmetic>) {
      const Vec even = GatherNormalised<T>(call, *run, frame, c);
      const Vec odd = c + 1 < channels ? GatherNormalised<T>(call, *run, frame, c + 1) : hn::Zero(D());
      StoreOperandPair<kArithmetic>(even, odd, to);
    }
  }
}

/// The normalised input of a tile that comes in beside the products of the one before it, two channels of a panel at a
/// time: all at once it would wait for memory, which is slow where a line lies in a page of its own.
template <Arithmetic kArithmetic>
class Arrival {
 public:
  /// `image`: operands [panel][channels]. `times`: how often Step is going to be called, about.
  void Start(const Call& call, const Tile& tile, std::uint32_t* image, std::size_t times) {
    call_ = &call;
    shape_ = tile.shape;
    channels_ = call.model->channels;
    for (std::size_t g = 0; g < shape_.runs; ++g) runs_[g] = LocateRun(call, call.input, call.output, tile, g);
    image_ = image;
    const std::size_t units = shape_.panels() * pad_channels(channels_) / 2;
    each_ = (units + times - 1) / times;
    here_.Enter(*this, 0);
    ahead_ = here_;
    DispatchPixels(call.input.dtype, [&]<class T>(T) {
      gather_ = &Arrival::Gather<T>;
      ReadAhead<T>(kAhead);
    });
  }
  HWY_INLINE void Step() {
    if (here_.panel < shape_.panels()) (this->*gather_)(each_);
  }
  /// Brings the rest. Returns true if there was anything to bring.
  bool Finish() {
    while (here_.panel < shape_.panels()) (this->*gather_)(each_);
    return call_ != nullptr;
  }

 private:
  static constexpr std::size_t kAhead = 8;  ///< units between a line's prefetch and its use

  /// Two channels of a panel.
  struct Unit {
    std::size_t panel = 0, row = 0;
    PanelPlaces places;
    void Enter(const Arrival& all, std::size_t p) {
      panel = p;
      row = 0;
      if (panel < all.shape_.panels()) places = PanelPlaces(all.runs_, all.shape_, panel);
    }
    HWY_INLINE void Advance(const Arrival& all) {
      row += 2;
      if (row >= all.channels_) Enter(all, panel + 1);
    }
  };

  template <class T>
  void Gather(std::size_t count) {
    ReadAhead<T>(count);
    for (; count != 0 && here_.panel < shape_.panels(); --count, here_.Advance(*this))
      GatherRows<kArithmetic, T>(*call_, here_.places, here_.row, 2,
                                 image_ + here_.panel * OperandWords<kArithmetic>(channels_));
  }
  /// To the L1 cache, although they are soon pushed out of it: a prefetch to the L2 stalls on Zen 4.
  template <class T>
  HWY_INLINE void ReadAhead(std::size_t count) {
    for (; count != 0 && ahead_.panel < shape_.panels(); --count, ahead_.Advance(*this))
      for (const Place& place : ahead_.places.slot) {
        __builtin_prefetch(InputAt<T>(*call_, place, ahead_.row));
        __builtin_prefetch(InputAt<T>(*call_, place, std::min(ahead_.row + 1, channels_ - 1)));
      }
  }

  const Call* call_ = nullptr;
  TileShape shape_;
  PixelRun runs_[kMaxRuns];
  std::uint32_t* image_ = nullptr;
  void (Arrival::*gather_)(std::size_t) = nullptr;
  std::size_t channels_ = 0, each_ = 0;
  Unit here_, ahead_;
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

// The average over the windows of a clip.
#if defined(KINEOGRAPH_CPU_KERNELS_WINDOW_AVERAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_WINDOW_AVERAGE_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_WINDOW_AVERAGE_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_WINDOW_AVERAGE_INL_H_
#endif

#include "engine/cpu/kernels/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// f32 rows of a clip, [panel][channel][2N], to which one window adds its shares.
struct WindowAverage {
  float* rows;
  std::size_t panel_floats;
  std::size_t runs;
  std::size_t first;    ///< the window's first frame
  std::size_t fresh;    ///< the window's frames from this one on have no share of another window yet
  std::size_t counted;  ///< the window's frames from this one on have a share
  const double* shares;

  /// Adds channels [c, c + kCount) of a window's frame, for one run.
  template <std::size_t kCount>
  HWY_INLINE void Add(std::size_t frame, std::size_t run, std::size_t c, const Vec (&value)[kCount]) const {
    if (frame < counted) return;
    const D d;
    const std::size_t v = (first + frame) * runs + run;
    float* const to = rows + PlaceOf(v, panel_floats) + c * kPanel;
    const Vec share = hn::Set(d, static_cast<float>(shares[frame]));
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kCount; ++i) {
      const Vec before = frame < fresh ? hn::Load(d, to + i * kPanel) : hn::Zero(d);
      hn::Store(hn::MulAdd(share, value[i], before), d, to + i * kPanel);
    }
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

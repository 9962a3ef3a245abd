// The backward of LayerNorm down the lanes.
#if defined(KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_
#endif

#include "engine/cpu/kernels/norm-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// One panel: with h = (x - mean) r and g = d_n scale, d_x += r (g - mean(g) - h mean(g h)). moments gets mean and r,
/// [2][2N].
HWY_INLINE void LayerNormBackwardPanel(const float* HWY_RESTRICT x, const float* HWY_RESTRICT d_n, std::size_t channels,
                                       float epsilon, const float* HWY_RESTRICT scale, float* HWY_RESTRICT d_x,
                                       float* HWY_RESTRICT moments) {
  const D d;
  const Vec inverse_count = hn::Set(d, 1.0f / static_cast<float>(channels));
  TokenMoments both[2];
  PanelMoments(x, channels, epsilon, both);
  for (std::size_t v = 0; v < kPanel; v += kLanes) {
    const TokenMoments& m = both[v / kLanes];
    hn::Store(m.mean, d, moments + v);
    hn::Store(m.inverse_deviation, d, moments + kPanel + v);
    const auto h = [&](std::size_t c) KINEOGRAPH_ATTR {
      return hn::Mul(hn::Sub(hn::Load(d, x + c * kPanel + v), m.mean), m.inverse_deviation);
    };
    const auto g = [&](std::size_t c)
                       KINEOGRAPH_ATTR { return hn::Mul(hn::Load(d, d_n + c * kPanel + v), hn::Set(d, scale[c])); };
    Vec mean[2] = {hn::Zero(d), hn::Zero(d)}, along[2] = {hn::Zero(d), hn::Zero(d)};
    for (std::size_t c = 0; c < channels; ++c) {
      mean[c % 2] = hn::Add(mean[c % 2], g(c));
      along[c % 2] = hn::MulAdd(g(c), h(c), along[c % 2]);
    }
    const Vec all_mean = hn::Mul(hn::Add(mean[0], mean[1]), inverse_count);
    const Vec all_along = hn::Mul(hn::Add(along[0], along[1]), inverse_count);
    for (std::size_t c = 0; c < channels; ++c) {
      const Vec centred = hn::Sub(hn::Sub(g(c), all_mean), hn::Mul(h(c), all_along));
      float* to = d_x + c * kPanel + v;
      hn::Store(hn::MulAdd(centred, m.inverse_deviation, hn::Load(d, to)), d, to);
    }
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

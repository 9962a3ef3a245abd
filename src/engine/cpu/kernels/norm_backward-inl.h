// The backward of LayerNorm down the lanes, and of the activations.
#if defined(KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_NORM_BACKWARD_INL_H_
#endif

#include "engine/cpu/kernels/norm-inl.h"
#include "engine/cpu/kernels/vector_math-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// One panel: with h = (x - mean) r and g = d_n scale, d_x += r (g - mean(g) - h mean(g h)). moments gets mean and r,
/// [2][2N].
HWY_INLINE void LayerNormBackwardPanel(const float* HWY_RESTRICT x, const float* HWY_RESTRICT d_n, std::size_t channels,
                                       float epsilon, const float* HWY_RESTRICT scale, float* HWY_RESTRICT d_x,
                                       float* HWY_RESTRICT moments) {
  const D d;
  const Vec inverse_count = hn::Set(d, 1.0f / static_cast<float>(channels));
  Moments both[2];
  PanelMoments(x, channels, epsilon, both);
  for (std::size_t v = 0; v < kPanel; v += kLanes) {
    const Moments& m = both[v / kLanes];
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

/// Value and slope of an activation.
struct Activated {
  Vec value, slope;
};

template <Activation kActivation>
HWY_INLINE Activated ActivateWithSlope(Vec x) {
  const D d;
  const Vec one = hn::Set(d, 1.0f);
  if constexpr (kActivation == Activation::geglu || kActivation == Activation::gelu) {
    // Phi(x) + x phi(x)
    const NormalTail t = TailOf(hn::Abs(x));
    const Vec phi = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), t.tail, hn::Sub(one, t.tail));
    const Vec density = hn::Mul(t.gauss, hn::Set(d, 0.39894228f));
    return {GeluErf(x), hn::MulAdd(x, density, phi)};
  } else {
    // x s(u) with s the sigmoid: s + x s (1 - s) u'
    Vec u = x, du = one;
    if constexpr (kActivation == Activation::gelu_approximate) {
      const Vec square = hn::Mul(x, x), rate = hn::Set(d, 1.59576912f);
      u = hn::Mul(hn::Mul(x, hn::MulAdd(square, hn::Set(d, 0.044715f), one)), rate);
      du = hn::Mul(hn::MulAdd(square, hn::Set(d, 3.0f * 0.044715f), one), rate);
    } else if constexpr (kActivation == Activation::geglu_approximate) {
      du = hn::Set(d, 1.702f);
      u = hn::Mul(x, du);
    }
    const Vec s = Sigmoid(u);
    return {hn::Mul(x, s), hn::MulAdd(hn::Mul(hn::Mul(x, s), hn::Sub(one, s)), du, s)};
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

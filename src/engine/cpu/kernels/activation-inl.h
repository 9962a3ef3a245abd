// The feed-forward's activations, and their slopes for the way back.
#if defined(KINEOGRAPH_CPU_KERNELS_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_ACTIVATION_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_ACTIVATION_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_ACTIVATION_INL_H_
#endif

#include "engine/cpu/kernels/vector_math-inl.h"
#include "kineograph/config.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

template <Activation kActivation>
HWY_INLINE Vec Activate(Vec x) {
  if constexpr (kActivation == Activation::geglu || kActivation == Activation::gelu)
    return GeluErf(x);
  else if constexpr (kActivation == Activation::gelu_approximate)
    return GeluTanh(x);
  else if constexpr (kActivation == Activation::geglu_approximate)
    return GeluSigmoid(x);
  else
    return Silu(x);
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

/// body<activation>() for one that is known at run time.
template <class Body>
HWY_INLINE void DispatchActivation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::geglu:
      return body.template operator()<Activation::geglu>();
    case Activation::gelu:
      return body.template operator()<Activation::gelu>();
    case Activation::gelu_approximate:
      return body.template operator()<Activation::gelu_approximate>();
    case Activation::geglu_approximate:
      return body.template operator()<Activation::geglu_approximate>();
    case Activation::swiglu:
      return body.template operator()<Activation::swiglu>();
    case Activation::linear_silu:
      return body.template operator()<Activation::linear_silu>();
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

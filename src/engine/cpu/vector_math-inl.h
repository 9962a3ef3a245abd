// Vector exp2, sigmoid, tanh-GELU and erf-GELU in f32, with their error bounds; tests/vector_math_test.cc checks them
// over the whole range.
#if defined(KINEOGRAPH_CPU_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_VECTOR_MATH_INL_H_
#undef KINEOGRAPH_CPU_VECTOR_MATH_INL_H_
#else
#define KINEOGRAPH_CPU_VECTOR_MATH_INL_H_
#endif

#include "engine/cpu/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// 2^x, relative error below 1.2e-7; 0 below -126.5, infinity from 127.5 on, NaN of NaN.
HWY_INLINE Vec Exp2(Vec x) {
  const D d;
  // The operands' order lets NaN through: x86 returns the second when either is NaN.
  const Vec within = hn::Min(hn::Set(d, 128.0f), hn::Max(hn::Set(d, -127.0f), x));
  const Vec n = hn::Round(within);
  const Vec r = hn::Sub(within, n);
  // Minimax polynomial of 2^r on [-1/2, 1/2] with the constant term held at 1.
  Vec y = hn::Set(d, 1.535336188e-4f);
  y = hn::MulAdd(y, r, hn::Set(d, 1.339887440e-3f));
  y = hn::MulAdd(y, r, hn::Set(d, 9.618437357e-3f));
  y = hn::MulAdd(y, r, hn::Set(d, 5.550332471e-2f));
  y = hn::MulAdd(y, r, hn::Set(d, 2.402264791e-1f));
  y = hn::MulAdd(y, r, hn::Set(d, 6.931472028e-1f));
  y = hn::MulAdd(y, r, hn::Set(d, 1.0f));
  // n = -127 gives the exponent bits of zero, n = 128 those of infinity.
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(DI(), n), hn::Set(DI(), 127)));
  return hn::Mul(y, hn::BitCast(d, exponent));
}

/// 1 / (1 + e^-x), absolute error below 2e-7.
HWY_INLINE Vec Sigmoid(Vec x) {
  const D d;
  const Vec one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, Exp2(hn::Mul(x, hn::Set(d, -1.44269504f)))));
}

/// tanh(x) = 2 sigmoid(2x) - 1, absolute error below 4e-7.
HWY_INLINE Vec Tanh(Vec x) {
  const D d;
  return hn::MulSub(hn::Set(d, 2.0f), Sigmoid(hn::Add(x, x)), hn::Set(d, 1.0f));
}

/// Phi(-a) and e^(-a^2/2).
struct NormalTail {
  Vec tail, gauss;
};

/// For a >= 0, absolute error below 1e-7: Phi's tail as a polynomial in t = 1 / (1 + p a) times a Gaussian (Abramowitz
/// and Stegun 7.1.26, whose coefficients are for erfc).
HWY_INLINE NormalTail TailOf(Vec a) {
  const D d;
  const Vec one = hn::Set(d, 1.0f);
  a = hn::Min(hn::Set(d, 20.0f), a);  // 0 from there on, at infinity too; NaN passes
  // p / sqrt(2)
  const Vec t = hn::Div(one, hn::MulAdd(a, hn::Set(d, 0.3275911f * 0.70710678f), one));
  Vec y = hn::Set(d, 0.5f * 1.061405429f);
  y = hn::MulAdd(y, t, hn::Set(d, 0.5f * -1.453152027f));
  y = hn::MulAdd(y, t, hn::Set(d, 0.5f * 1.421413741f));
  y = hn::MulAdd(y, t, hn::Set(d, 0.5f * -0.284496736f));
  y = hn::MulAdd(y, t, hn::Set(d, 0.5f * 0.254829592f));
  // e^(-a^2/2) = 2^(-a^2 log2(e)/2)
  const Vec gauss = Exp2(hn::Mul(hn::Mul(a, a), hn::Set(d, -0.72134752f)));
  return {hn::Mul(hn::Mul(y, t), gauss), gauss};
}

/// a * Phi(-a) for a >= 0, absolute error below 3e-7.
HWY_INLINE Vec GeluTail(Vec a) { return hn::Mul(TailOf(a).tail, hn::Min(hn::Set(D(), 20.0f), a)); }

/// x * Phi(x), the GELU of erf, absolute error below 5e-7: relu(x) less the tail, which is even in x.
HWY_INLINE Vec GeluErf(Vec x) {
  const D d;
  return hn::Sub(hn::Max(x, hn::Zero(d)), GeluTail(hn::Abs(x)));
}

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
HWY_INLINE Vec GeluTanh(Vec x) {
  const D d;
  const Vec cubic = hn::MulAdd(hn::Mul(x, x), hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
  return hn::Mul(x, Sigmoid(hn::Mul(hn::Mul(x, cubic), hn::Set(d, 1.59576912f))));
}

HWY_INLINE Vec Silu(Vec x) { return hn::Mul(x, Sigmoid(x)); }

/// x sigmoid(1.702 x), which diffusers names geglu-approximate.
HWY_INLINE Vec GeluSigmoid(Vec x) {
  const D d;
  return hn::Mul(x, Sigmoid(hn::Mul(x, hn::Set(d, 1.702f))));
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

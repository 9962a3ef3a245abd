// Vector exp2, sigmoid, tanh-GELU and erf-GELU in f32, with their error bounds; tests/vector_math_test.cc checks them
// over the whole range.
#if defined(KINEOGRAPH_CPU_KERNELS_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_VECTOR_MATH_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_VECTOR_MATH_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_VECTOR_MATH_INL_H_
#endif

#include "engine/cpu/kernels/target-inl.h"

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

/// 2^x for x <= 127, of relative error below 1.9e-7 by a polynomial of degree 5, 1.1e-4 by one of degree 3. With
/// AVX-512 0 where it underflows, elsewhere at least 2^-125; NaN of NaN.
template <std::size_t kDegree>
HWY_INLINE Vec ShortExp2(Vec x) {
  static_assert(kDegree == 3 || kDegree == 5);
  const D d;
  const auto polynomial = [&](const float(&power)[kDegree], Vec r) KINEOGRAPH_ATTR {
    Vec y = hn::Set(d, power[0]);
    KINEOGRAPH_UNROLL for (std::size_t i = 1; i < kDegree; ++i) y = hn::MulAdd(y, r, hn::Set(d, power[i]));
    return hn::MulAdd(y, r, hn::Set(d, 1.0f));
  };
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  // r = x - floor(x), then r's power times 2^floor(x): one instruction each.
  const Vec r{_mm512_reduce_ps(x.raw, 1)};
  if constexpr (kDegree == 5) {
    constexpr float kPower[] = {1.867130050e-3f, 9.017030708e-3f, 5.579991266e-2f, 2.401644439e-1f, 6.931512952e-1f};
    return Vec{_mm512_scalef_ps(polynomial(kPower, r).raw, x.raw)};
  } else {
    constexpr float kPower[] = {7.706703991e-2f, 2.276449949e-1f, 6.951167583e-1f};
    return Vec{_mm512_scalef_ps(polynomial(kPower, r).raw, x.raw)};
  }
#else
  // The operands' order lets NaN through: x86 returns the second when either is NaN.
  x = hn::Max(hn::Set(d, -125.0f), x);
  const Vec magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23: what is added to it is rounded
  const Vec shifted = hn::Add(x, magic);
  const Vec r = hn::Sub(x, hn::Sub(shifted, magic));
  Vec y;
  if constexpr (kDegree == 5) {
    constexpr float kPower[] = {1.326472731e-3f, 9.671512991e-3f, 5.550733581e-2f, 2.402224243e-1f, 6.931470037e-1f};
    y = polynomial(kPower, r);
  } else {
    constexpr float kPower[] = {5.500893295e-2f, 2.422109544e-1f, 6.932829022e-1f};
    y = polynomial(kPower, r);
  }
  // The low bits of `shifted` are the rounded number. A product lets any NaN through.
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::BitCast(DI(), shifted), hn::Set(DI(), 127)));
  return hn::Mul(y, hn::BitCast(d, exponent));
#endif
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

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
/// a * Phi(-a) for a >= 0, absolute error below 3e-7: 16 pieces of degree 4, a vector of coefficients for each power.
/// Made by scripts/gelu_table.py.
HWY_INLINE Vec GeluTail(Vec a) {
  HWY_ALIGN static constexpr float kPower[5][16] = {
      {1.04230584e-03f, 7.76981935e-04f, 1.48740408e-04f, -3.97468830e-04f, -5.82750654e-04f, -4.43940866e-04f,
       -1.95840752e-04f, -1.31059660e-05f, 5.88827352e-05f, 5.88132134e-05f, 3.60390186e-05f, 1.66822392e-05f,
       6.21980689e-06f, 1.92339007e-06f, 5.01395220e-07f, 1.13918269e-07f},
      {1.17219342e-05f, 3.83150694e-03f, 5.72611019e-03f, 5.14179887e-03f, 3.05737881e-03f, 9.33079456e-04f,
       -3.46364075e-04f, -7.29581399e-04f, -6.07024704e-04f, -3.57776968e-04f, -1.66590442e-04f, -6.38846614e-05f,
       -2.06014083e-05f, -5.65474375e-06f, -1.33142589e-06f, -2.69661001e-07f},
      {-5.04365042e-02f, -4.43520024e-02f, -2.92639565e-02f, -1.23099973e-02f, 2.08131634e-04f, 6.02615718e-03f,
       6.60946826e-03f, 4.77810763e-03f, 2.68826890e-03f, 1.24176405e-03f, 4.82551957e-04f, 1.59870819e-04f,
       4.55245972e-05f, 1.12022435e-05f, 2.39095834e-06f, 4.43376308e-07f},
      {1.77777931e-01f, 8.10435116e-02f, 6.47168886e-03f, -3.47928591e-02f, -4.58279029e-02f, -3.85173969e-02f,
       -2.52420828e-02f, -1.36697842e-02f, -6.27083844e-03f, -2.46817595e-03f, -8.39745160e-04f, -2.48131517e-04f,
       -6.38776110e-05f, -1.43584984e-05f, -2.82268888e-06f, -5.93779134e-07f},
      {0.00000000e+00f, 1.28386393e-01f, 1.69605464e-01f, 1.52598605e-01f, 1.10195018e-01f, 6.70580938e-02f,
       3.50905508e-02f, 1.59466844e-02f, 6.32731616e-03f, 2.19884142e-03f, 6.70544396e-04f, 1.79661758e-04f,
       4.23285928e-05f, 8.77415641e-06f, 1.60081447e-06f, 2.03239878e-07f},
  };
  const D d;
  const Vec scale = hn::Set(d, 2.8125f), magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23: what is added to it is rounded
  a = hn::Min(hn::Set(d, 5.5f), a);                                        // NaN passes
  const Vec shifted = hn::MulAdd(a, scale, magic);
  const auto piece = hn::IndicesFromVec(d, hn::And(hn::BitCast(DI(), shifted), hn::Set(DI(), 15)));
  const Vec r = hn::MulSub(a, scale, hn::Sub(shifted, magic));
  Vec y = hn::TableLookupLanes(hn::Load(d, kPower[0]), piece);
  KINEOGRAPH_UNROLL for (std::size_t i = 1; i < 5; ++i) y =
      hn::MulAdd(y, r, hn::TableLookupLanes(hn::Load(d, kPower[i]), piece));
  return y;
}
#else
/// a * Phi(-a) for a >= 0, absolute error below 3e-7.
HWY_INLINE Vec GeluTail(Vec a) { return hn::Mul(TailOf(a).tail, hn::Min(hn::Set(D(), 20.0f), a)); }
#endif

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

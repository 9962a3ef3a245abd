// LayerNorm down the lanes of a panel.
#if defined(KINEOGRAPH_CPU_KERNELS_NORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_NORM_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_NORM_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_NORM_INL_H_
#endif

#include "engine/cpu/kernels/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Mean and 1 / sqrt(variance + epsilon) of the tokens of one vector. The constructors are written out because GCC's
/// implicit ones lack the region's attributes, so that vectors do not pass through them on Arm.
struct TokenMoments {
  KINEOGRAPH_ATTR TokenMoments() {}
  KINEOGRAPH_ATTR TokenMoments(Vec the_mean, Vec the_inverse_deviation)
      : mean(the_mean), inverse_deviation(the_inverse_deviation) {}
  Vec mean, inverse_deviation;
};

/// Moments over the channels of one panel of x [channels][2N], for both its vectors: sums of deviations and of their
/// squares, about the mean of the first channels. Shifting by the mean of the first m = 64 of n channels inflates the
/// sum of squares by at most 1 + n / m (Cauchy and Schwarz): about one of f32's seven digits.
HWY_INLINE void PanelMoments(const float* x, std::size_t channels, float epsilon, TokenMoments (&moments)[2]) {
  const D d;
  constexpr std::size_t kFirst = 64, kSums = kMaxRows >= 14 ? 4 : 2;
  /// visit(which sum, which vector, value)
  const auto each = [&](std::size_t count, auto&& visit) KINEOGRAPH_ATTR {
    const auto row = [&](std::size_t c, std::size_t i) KINEOGRAPH_ATTR {
      KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) visit(i, v, hn::Load(d, x + c * kPanel + v * kLanes));
    };
    std::size_t c = 0;
    for (; c + kSums <= count; c += kSums) KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kSums; ++i) row(c + i, i);
    for (; c < count; ++c) row(c, 0);
  };
  using Sums = Vec[kSums][2];
  const auto clear = [&](Sums& sums) KINEOGRAPH_ATTR {
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kSums; ++i) sums[i][0] = sums[i][1] = hn::Zero(d);
  };
  const auto mean_of = [&](const Sums& sums, std::size_t v, std::size_t count) KINEOGRAPH_ATTR {
    Vec all = sums[0][v];
    KINEOGRAPH_UNROLL for (std::size_t i = 1; i < kSums; ++i) all = hn::Add(all, sums[i][v]);
    return hn::Mul(all, hn::Set(d, 1.0f / static_cast<float>(count)));
  };
  Sums sum, square;
  const std::size_t first = std::min(kFirst, channels);
  clear(sum);
  each(first, [&](std::size_t i, std::size_t v, Vec value) KINEOGRAPH_ATTR { sum[i][v] = hn::Add(sum[i][v], value); });
  const Vec base[2] = {mean_of(sum, 0, first), mean_of(sum, 1, first)};
  clear(sum);
  clear(square);
  each(channels, [&](std::size_t i, std::size_t v, Vec value) KINEOGRAPH_ATTR {
    const Vec from = hn::Sub(value, base[v]);
    sum[i][v] = hn::Add(sum[i][v], from);
    square[i][v] = hn::MulAdd(from, from, square[i][v]);
  });
  KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
    const Vec mean = mean_of(sum, v, channels);
    const Vec variance = hn::Max(hn::Zero(d), hn::NegMulAdd(mean, mean, mean_of(square, v, channels)));
    moments[v] = TokenMoments(hn::Add(base[v], mean),
                              hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Add(variance, hn::Set(d, epsilon)))));
  }
}

/// LayerNorm of one panel of x [channels][2N], scaled and shifted, as GEMM operands. `shift0` and `shift1` are those of
/// the two vectors' frames.
template <Arithmetic kArithmetic>
inline void LayerNormPanel(const float* HWY_RESTRICT x, std::size_t channels, float epsilon,
                           const float* HWY_RESTRICT scale, const float* HWY_RESTRICT shift0,
                           const float* HWY_RESTRICT shift1, std::uint32_t* HWY_RESTRICT out) {
  const D d;
  TokenMoments moments[2];
  PanelMoments(x, channels, epsilon, moments);
  const float* const shift[2] = {shift0, shift1};
  const auto at = [&](std::size_t c, std::size_t v) KINEOGRAPH_ATTR {
    const Vec centred = hn::Sub(hn::Load(d, x + c * kPanel + v * kLanes), moments[v].mean);
    return hn::MulAdd(hn::Mul(centred, moments[v].inverse_deviation), hn::Set(d, scale[c]), hn::Set(d, shift[v][c]));
  };
  std::size_t c = 0;
  for (; c + 2 <= channels; c += 2, out += kPairWords<kArithmetic>)
    KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v)
        StoreOperandPair<kArithmetic>(at(c, v), at(c + 1, v), out + v * kLanes);
  if (c < channels)
    for (std::size_t v = 0; v < 2; ++v) StoreOperandPair<kArithmetic>(at(c, v), hn::Zero(d), out + v * kLanes);
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

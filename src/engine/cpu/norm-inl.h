// LayerNorm down the lanes of a panel.
#if defined(KINEOGRAPH_CPU_NORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_NORM_INL_H_
#undef KINEOGRAPH_CPU_NORM_INL_H_
#else
#define KINEOGRAPH_CPU_NORM_INL_H_
#endif

#include "engine/cpu/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

struct Moments {
  Vec mean, inverse_deviation;
};

/// Mean and 1/sqrt(variance + epsilon) over the channels, for the lanes of one vector of a panel. Two passes, the
/// second about the first's mean, and both moments corrected by what that mean missed: exact when the mean is large.
HWY_INLINE Moments LaneMoments(const float* x, std::size_t channels, float epsilon) {
  const D d;
  const Vec inverse_count = hn::Set(d, 1.0f / static_cast<float>(channels));
  constexpr std::size_t kSums = 4;
  const auto each = [&](auto&& visit) KINEOGRAPH_ATTR {
    std::size_t c = 0;
    for (; c + kSums <= channels; c += kSums)
      for (std::size_t i = 0; i < kSums; ++i) visit(i, hn::Load(d, x + (c + i) * kPanel));
    for (; c < channels; ++c) visit(0, hn::Load(d, x + c * kPanel));
  };
  const auto mean_of = [&](const Vec(&sum)[kSums]) KINEOGRAPH_ATTR {
    return hn::Mul(hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3])), inverse_count);
  };
  Vec sum[kSums], square[kSums];
  for (auto& s : sum) s = hn::Zero(d);
  each([&](std::size_t i, Vec v) KINEOGRAPH_ATTR { sum[i] = hn::Add(sum[i], v); });
  const Vec rough = mean_of(sum);
  for (std::size_t i = 0; i < kSums; ++i) sum[i] = square[i] = hn::Zero(d);
  each([&](std::size_t i, Vec v) KINEOGRAPH_ATTR {
    const Vec centred = hn::Sub(v, rough);
    sum[i] = hn::Add(sum[i], centred);
    square[i] = hn::MulAdd(centred, centred, square[i]);
  });
  const Vec missed = mean_of(sum);
  const Vec variance = hn::Max(hn::Zero(d), hn::NegMulAdd(missed, missed, mean_of(square)));
  return {hn::Add(rough, missed), hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Add(variance, hn::Set(d, epsilon))))};
}

/// LayerNorm of one panel of x [channels][2N], scaled and shifted, as GEMM operands. `shift0` and `shift1` are those of
/// the two vectors' frames.
template <Arithmetic kArithmetic>
inline void LayerNormPanel(const float* HWY_RESTRICT x, std::size_t channels, float epsilon,
                           const float* HWY_RESTRICT scale, const float* HWY_RESTRICT shift0,
                           const float* HWY_RESTRICT shift1, std::uint32_t* HWY_RESTRICT out) {
  const D d;
  for (std::size_t v = 0; v < 2; ++v) {
    const float* lanes = x + v * kLanes;
    const float* shift = v == 0 ? shift0 : shift1;
    const Moments m = LaneMoments(lanes, channels, epsilon);
    const auto at = [&](std::size_t c) KINEOGRAPH_ATTR {
      const Vec centred = hn::Mul(hn::Sub(hn::Load(d, lanes + c * kPanel), m.mean), m.inverse_deviation);
      return hn::MulAdd(centred, hn::Set(d, scale[c]), hn::Set(d, shift[c]));
    };
    std::uint32_t* row = out + v * kLanes;
    std::size_t c = 0;
    for (; c + 2 <= channels; c += 2, row += kPairWords<kArithmetic>)
      StoreOperandPair<kArithmetic>(at(c), at(c + 1), row);
    if (c < channels) StoreOperandPair<kArithmetic>(at(c), hn::Zero(d), row);
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

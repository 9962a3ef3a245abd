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
/// second about the first's mean and corrected by what that mean missed: exact when the mean is large.
HWY_INLINE Moments LaneMoments(const float* x, std::size_t channels, float epsilon) {
  const D d;
  const Vec inverse_count = hn::Set(d, 1.0f / static_cast<float>(channels));
  const auto reduce = [&](auto&& term) HWY_ATTR {
    Vec sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    std::size_t c = 0;
    for (; c + 4 <= channels; c += 4)
      for (std::size_t i = 0; i < 4; ++i) sum[i] = term(sum[i], hn::Load(d, x + (c + i) * kPanel));
    for (; c < channels; ++c) sum[0] = term(sum[0], hn::Load(d, x + c * kPanel));
    return hn::Mul(hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3])), inverse_count);
  };
  const Vec rough = reduce([](Vec sum, Vec v) HWY_ATTR { return hn::Add(sum, v); });
  const Vec missed = reduce([&](Vec sum, Vec v) HWY_ATTR { return hn::Add(sum, hn::Sub(v, rough)); });
  const Vec mean = hn::Add(rough, missed);
  const Vec variance = reduce([&](Vec sum, Vec v) HWY_ATTR {
    const Vec centred = hn::Sub(v, mean);
    return hn::MulAdd(centred, centred, sum);
  });
  return {mean, hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Add(variance, hn::Set(d, epsilon))))};
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
    const auto at = [&](std::size_t c) HWY_ATTR {
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

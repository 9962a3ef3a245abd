// What happens to the feed-forward's hidden columns between its two products.
#if defined(KINEOGRAPH_CPU_FEED_FORWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_FEED_FORWARD_INL_H_
#undef KINEOGRAPH_CPU_FEED_FORWARD_INL_H_
#else
#define KINEOGRAPH_CPU_FEED_FORWARD_INL_H_
#endif

#include "engine/cpu/gemm-inl.h"
#include "engine/cpu/vector_math-inl.h"

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

/// Activated columns as operands [panel][hidden]. A gated block of a packed layer is half values, half their gates.
template <Arithmetic kArithmetic, Activation kActivation>
struct ToHidden {
  using Side = ReadAhead;
  static constexpr Sum kSum = Sum::store;
  static constexpr bool kGated = kActivation == Activation::geglu || kActivation == Activation::swiglu;
  float* block;
  std::uint32_t* hidden;
  std::size_t panel_words;

  HWY_INLINE void Before(std::size_t, std::size_t, std::size_t, ReadAhead&) const {}
  HWY_INLINE float* Target(std::size_t, std::size_t) const { return block; }
  HWY_INLINE void After(std::size_t row, std::size_t rows, std::size_t panel) const {
    Take(block, row, rows, panel, 0, rows);
  }

  static constexpr bool kInPlace = false;
  /// A share of the block's columns, as large as [begin, end) is of its rows.
  HWY_INLINE void Take(const float* sums, std::size_t row, std::size_t rows, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    const D d;
    constexpr std::size_t kRowsEach = kGated ? 2 : 1;  // of a column
    const std::size_t first = row / kRowsEach;
    const float* gates = sums + rows / 2 * kPanel;
    const auto at = [&](std::size_t i) KINEOGRAPH_ATTR {  // i counts vectors: two a row
      const Vec value = hn::Load(d, sums + i * kLanes);
      if constexpr (kGated)
        return hn::Mul(value, Activate<kActivation>(hn::Load(d, gates + i * kLanes)));
      else
        return Activate<kActivation>(value);
    };
    std::uint32_t* out = hidden + panel * panel_words;
    if constexpr (is_paired(kArithmetic)) {
      for (std::size_t pair = begin / kRowsEach / 2; pair < end / kRowsEach / 2; ++pair)
        for (std::size_t v = 0; v < 2; ++v)
          hn::Store(Bf16Pair(at(4 * pair + v), at(4 * pair + 2 + v)), DU(),
                    out + (first / 2 + pair) * kPanel + v * kLanes);
    } else {
      auto* to = reinterpret_cast<float*>(out) + first * kPanel;
      for (std::size_t i = 2 * (begin / kRowsEach); i < 2 * (end / kRowsEach); ++i)
        hn::Store(at(i), d, to + i * kLanes);
    }
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

// What happens to the feed-forward's hidden columns between its two products.
#if defined(KINEOGRAPH_CPU_FORWARD_FEED_FORWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_FORWARD_FEED_FORWARD_INL_H_
#undef KINEOGRAPH_CPU_FORWARD_FEED_FORWARD_INL_H_
#else
#define KINEOGRAPH_CPU_FORWARD_FEED_FORWARD_INL_H_
#endif

#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/kernels/vector_math-inl.h"
#include "engine/cpu/tile/from_image-inl.h"

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
  static constexpr bool kBuffered = kActivation != Activation::geglu, kInPlace = false;  // published models have geglu
  static constexpr bool kGated = kActivation == Activation::geglu || kActivation == Activation::swiglu;
  float* block;
  std::uint32_t* hidden;
  std::size_t panel_words;
  Arrival<kArithmetic>* arrival;  ///< of another tile's input, or null

  HWY_INLINE void Before(std::size_t, std::size_t, std::size_t, ReadAhead&) const {
    if (arrival != nullptr) arrival->Step();
  }
  HWY_INLINE float* Target(std::size_t, std::size_t) const { return block; }
  /// A share of the block's columns, as large as [begin, end) is of its rows.
  template <class Sums>
  HWY_INLINE void Take(const Sums& sums, std::size_t row, std::size_t rows, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    constexpr std::size_t kRowsEach = kGated ? 2 : 1;  // of a column
    const auto at = [&](std::size_t column, std::size_t v) KINEOGRAPH_ATTR {
      if constexpr (kGated)
        return hn::Mul(sums(column, v), Activate<kActivation>(sums(rows / 2 + column, v)));
      else
        return Activate<kActivation>(sums(column, v));
    };
    std::uint32_t* out = hidden + panel * panel_words + row / kRowsEach / 2 * kPairWords<kArithmetic>;
    if constexpr (is_paired(kArithmetic)) {
      KINEOGRAPH_UNROLL for (std::size_t c = begin / kRowsEach; c + 1 < end / kRowsEach; c += 2)
          KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v)
              hn::Store(Bf16Pair(at(c, v), at(c + 1, v)), DU(), out + c / 2 * kPanel + v * kLanes);
    } else {
      auto* to = reinterpret_cast<float*>(out) + row / kRowsEach % 2 * kPanel;
      KINEOGRAPH_UNROLL for (std::size_t c = begin / kRowsEach; c < end / kRowsEach; ++c)
          KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) hn::Store(at(c, v), D(), to + c * kPanel + v * kLanes);
    }
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

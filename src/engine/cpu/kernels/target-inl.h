// Types, constants and macros of every file that is compiled once per instruction set.
#if defined(KINEOGRAPH_CPU_KERNELS_TARGET_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_TARGET_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_TARGET_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_TARGET_INL_H_
#endif

#include "engine/cpu/pack/layout.h"
#include "hwy/highway.h"

// Highway 1.0.3 has no target with AVX512-BF16, nor one with AMX. Its AVX3_DL region is compiled with both added;
// targets.cc offers the kernels that use them only to processors that have them.
#undef KINEOGRAPH_NATIVE_BF16
#undef KINEOGRAPH_TARGET_STR
#undef KINEOGRAPH_BEFORE_NAMESPACE
#undef KINEOGRAPH_AFTER_NAMESPACE
#undef KINEOGRAPH_ATTR  // of lambdas, which the region's attributes do not reach everywhere
#if HWY_TARGET == HWY_AVX3_DL
#include <immintrin.h>
#define KINEOGRAPH_NATIVE_BF16 1
#define KINEOGRAPH_TARGET_STR HWY_TARGET_STR ",avx512bf16,amx-tile,amx-bf16"
#define KINEOGRAPH_BEFORE_NAMESPACE HWY_PUSH_ATTRIBUTES(KINEOGRAPH_TARGET_STR) static_assert(true, "");
#define KINEOGRAPH_AFTER_NAMESPACE HWY_POP_ATTRIBUTES static_assert(true, "");
#define KINEOGRAPH_ATTR __attribute__((target(KINEOGRAPH_TARGET_STR)))
#else
#define KINEOGRAPH_NATIVE_BF16 0
#define KINEOGRAPH_BEFORE_NAMESPACE HWY_BEFORE_NAMESPACE();
#define KINEOGRAPH_AFTER_NAMESPACE HWY_AFTER_NAMESPACE();
#define KINEOGRAPH_ATTR HWY_ATTR
#endif

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#undef KINEOGRAPH_UNROLL
#define KINEOGRAPH_UNROLL _Pragma("GCC unroll 16")

using D = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<D>;
using DI = hn::RebindToSigned<D>;
using Vec = hn::Vec<D>;

/// Tokens of a vector, and of a panel.
inline constexpr std::size_t kLanes = hn::MaxLanes(D());
inline constexpr std::size_t kPanel = 2 * kLanes;

/// Rows of the largest micro-kernel. It holds rows x 2 accumulators, 2 activations and a weight in registers: 14 x 2 +
/// 3 of 32, 6 x 2 + 3 of 16.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM_A64
inline constexpr std::size_t kMaxRows = 14;
#else
inline constexpr std::size_t kMaxRows = 6;
#endif

/// f32 to the bits of bf16 in the low half, rounded to nearest even; NaN stays NaN.
HWY_INLINE hn::Vec<DU> RoundToBf16(Vec x) {
  const DU du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Set(du, 0x7fc0u), rounded);
}

/// Lane by lane, the bf16 pair of `low` and `high`, as the dot product takes it.
HWY_INLINE hn::Vec<DU> Bf16Pair(Vec low, Vec high) {
#if KINEOGRAPH_NATIVE_BF16
  // The instruction puts all of `high` above all of `low`; the permutation interleaves them.
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                                21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                                11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.raw, low.raw));
  return hn::Vec<DU>{_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), both)};
#else
  return hn::Or(RoundToBf16(low), hn::ShiftLeft<16>(RoundToBf16(high)));
#endif
}

/// Stores channels 2r and 2r+1 of one vector as GEMM operands. `row` points at the vector's lanes of row 2r for f32, of
/// pair r for bf16.
template <Arithmetic kArithmetic>
HWY_INLINE void StoreOperandPair(Vec even, Vec odd, std::uint32_t* HWY_RESTRICT row) {
  if constexpr (is_paired(kArithmetic)) {
    hn::Store(Bf16Pair(even, odd), DU(), row);
  } else {
    hn::Store(even, D(), reinterpret_cast<float*>(row));
    hn::Store(odd, D(), reinterpret_cast<float*>(row) + kPanel);
  }
}

/// sum + a b, lane by lane; in bf16 the lanes of a and b are pairs.
template <Arithmetic kArithmetic>
HWY_INLINE Vec MultiplyAdd(Vec a, Vec b, Vec sum) {
#if KINEOGRAPH_NATIVE_BF16
  if constexpr (kArithmetic == Arithmetic::bf16)
    return Vec{_mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(a.raw), reinterpret_cast<__m512bh>(b.raw))};
#endif
  return hn::MulAdd(a, b, sum);
}

/// Pairs in the lanes of a vector that only MultiplyAdd and the like may read.
HWY_INLINE Vec PairOf(Vec low, Vec high) { return hn::BitCast(D(), Bf16Pair(low, high)); }

/// Rows of f32 [count][2N], count even, as pairs of rows [count / 2][2N].
HWY_INLINE void PairRows(const float* HWY_RESTRICT rows, std::size_t count, std::uint32_t* HWY_RESTRICT pairs) {
  const D d;
  for (std::size_t i = 0; i < count; i += 2, rows += 2 * kPanel, pairs += kPanel)
    for (std::size_t v = 0; v < kPanel; v += kLanes)
      hn::Store(Bf16Pair(hn::Load(d, rows + v), hn::Load(d, rows + kPanel + v)), DU(), pairs + v);
}

#if KINEOGRAPH_NATIVE_BF16
/// The pairs of neighbours in 2N floats: low[0] with low[1], ..., high[N - 2] with high[N - 1].
HWY_INLINE Vec NeighboursOf(Vec low, Vec high) {
  return hn::BitCast(D(), hn::Vec<DU>{reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.raw, low.raw))});
}
#endif

/// The first element of vector v in a buffer [panel][channel][2N] whose panels are so far apart.
constexpr std::size_t PlaceOf(std::size_t v, std::size_t panel) { return v / 2 * panel + v % 2 * kLanes; }

/// Words of one channel pair in a panel of operands.
template <Arithmetic kArithmetic>
inline constexpr std::size_t kPairWords = is_paired(kArithmetic) ? kPanel : 2 * kPanel;

/// Words of a panel of operands.
template <Arithmetic kArithmetic>
constexpr std::size_t OperandWords(std::size_t channels) {
  return pad_channels(channels) / 2 * kPairWords<kArithmetic>;
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

// The micro-kernel of vectors: up to kMaxRows rows of weights by a panel of tokens, sums in registers.
#if defined(KINEOGRAPH_CPU_KERNELS_MICRO_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_MICRO_KERNEL_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_MICRO_KERNEL_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_MICRO_KERNEL_INL_H_
#endif

#include <array>
#include <utility>

#include "base/assert.h"
#include "engine/cpu/kernels/epilogue-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// One step of the sum over k for all rows: one word of weights a row, one or two rows of activations.
template <std::size_t kRows, Arithmetic kArithmetic>
HWY_INLINE void MultiplyStep(const std::uint32_t* HWY_RESTRICT w, const std::uint32_t* HWY_RESTRICT x,
                             Vec (&sum)[kRows][2]) {
  const D d;
  if constexpr (kArithmetic == Arithmetic::f32) {
    const Vec x0 = hn::Load(d, reinterpret_cast<const float*>(x));
    const Vec x1 = hn::Load(d, reinterpret_cast<const float*>(x) + kLanes);
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
      const Vec weight = hn::Set(d, reinterpret_cast<const float*>(w)[i]);
      sum[i][0] = hn::MulAdd(weight, x0, sum[i][0]);
      sum[i][1] = hn::MulAdd(weight, x1, sum[i][1]);
    }
  } else if constexpr (kArithmetic == Arithmetic::bf16_storage) {
    const auto* xf = reinterpret_cast<const float*>(x);
    const Vec x00 = hn::Load(d, xf), x01 = hn::Load(d, xf + kLanes);
    const Vec x10 = hn::Load(d, xf + kPanel), x11 = hn::Load(d, xf + kPanel + kLanes);
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
      const auto pair = hn::Set(DU(), w[i]);
      const Vec even = hn::BitCast(d, hn::ShiftLeft<16>(pair));
      sum[i][0] = hn::MulAdd(even, x00, sum[i][0]);
      sum[i][1] = hn::MulAdd(even, x01, sum[i][1]);
      const Vec odd = hn::BitCast(d, hn::And(pair, hn::Set(DU(), 0xffff0000u)));
      sum[i][0] = hn::MulAdd(odd, x10, sum[i][0]);
      sum[i][1] = hn::MulAdd(odd, x11, sum[i][1]);
    }
  } else {
#if KINEOGRAPH_NATIVE_BF16
    const auto x0 = reinterpret_cast<__m512bh>(_mm512_load_si512(x));
    const auto x1 = reinterpret_cast<__m512bh>(_mm512_load_si512(x + kLanes));
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
      const auto weight = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(w[i])));
      sum[i][0].raw = _mm512_dpbf16_ps(sum[i][0].raw, weight, x0);
      sum[i][1].raw = _mm512_dpbf16_ps(sum[i][1].raw, weight, x1);
    }
#endif
  }
}

/// Words of activations that one word of weights meets.
template <Arithmetic kArithmetic>
inline constexpr std::size_t kStepWords = kArithmetic == Arithmetic::bf16_storage ? 2 * kPanel : kPanel;

/// kRows x one panel. w: [words][kRows]; x: [words][kStepWords]. `put` is given the sums; `beside` does something every
/// kUnroll steps.
template <std::size_t kRows, Arithmetic kArithmetic, class Put, class Side>
HWY_NOINLINE void Kernel(const std::uint32_t* HWY_RESTRICT w, const std::uint32_t* HWY_RESTRICT x, std::size_t words,
                         const float* HWY_RESTRICT bias, const Put& put, Side& beside) {
  KINEOGRAPH_ASSERT(is_aligned(x, kLanes * sizeof(float)));
  const D d;
  Vec sum[kRows][2];
  KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = hn::Set(d, bias[i]);
  constexpr std::size_t kX = kStepWords<kArithmetic>;
  Side side = beside;  // a copy stays in registers
  std::size_t k = words;
  for (; k >= kUnroll; k -= kUnroll) {
    side.Step();
    KINEOGRAPH_UNROLL for (std::size_t u = 0; u < kUnroll; ++u) {
      MultiplyStep<kRows, kArithmetic>(w + u * kRows, x + u * kX, sum);
    }
    w += kUnroll * kRows;
    x += kUnroll * kX;
  }
  for (; k != 0; --k) {
    MultiplyStep<kRows, kArithmetic>(w, x, sum);
    w += kRows;
    x += kX;
  }
  beside = side;
  put(RegisterSums<kRows>{sum}, kRows);
}

template <class Put, class Side>
using KernelFunction = void (*)(const std::uint32_t*, const std::uint32_t*, std::size_t, const float*, const Put&,
                                Side&);

/// The kernel of an even number of rows up to kMaxRows.
template <Arithmetic kArithmetic, class Put, class Side>
HWY_INLINE KernelFunction<Put, Side> KernelOf(std::size_t rows) {
  static constexpr auto kKernels = []<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
    return std::array<KernelFunction<Put, Side>, sizeof...(kIndex)>{
        &Kernel<2 * (kIndex + 1), kArithmetic, Put, Side>...};
  }
  (std::make_index_sequence<kMaxRows / 2>());
  KINEOGRAPH_ASSERT(rows % 2 == 0 && rows != 0 && rows <= kMaxRows);
  return kKernels[rows / 2 - 1];
}

/// Sums as they are, to `to` [row][2N].
struct PutInMemory {
  float* to;
  template <class Sums>
  HWY_INLINE void operator()(const Sums& sums, std::size_t rows) const {
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < rows; ++i) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v)
        hn::Store(sums(i, v), D(), to + i * kPanel + v * kLanes);
  }
};

/// Sums to the epilogue.
template <Epilogue E>
struct PutTo {
  const E* epilogue;
  std::size_t row, panel;
  template <class Sums>
  HWY_INLINE void operator()(const Sums& sums, std::size_t rows) const {
    epilogue->Take(sums, row, rows, panel, 0, rows);
  }
};

/// Runs blocks of a linear, one panel of tokens each, for one Gemm.
template <Arithmetic kArithmetic, Epilogue E>
struct VectorRunner {
  HWY_INLINE void Run(const LinearView& linear, const PackedLinear::Block& block, const std::uint32_t* x,
                      std::size_t panel, E& epilogue, typename E::Side& side) {
    const auto run = [&](const auto& put) KINEOGRAPH_ATTR {
      using Put = std::remove_cvref_t<decltype(put)>;
      KernelOf<kArithmetic, Put, typename E::Side>(block.rows)(linear.weights + block.offset, x, linear.words,
                                                               linear.bias + block.row, put, side);
    };
    if constexpr (E::kBuffered) {
      float* const sums = epilogue.Target(block.row, panel);
      KINEOGRAPH_ASSERT(is_aligned(sums, 64));
      run(PutInMemory{sums});
      if constexpr (requires { epilogue.After(side); }) epilogue.After(side);
      epilogue.Take(MemorySums{sums}, block.row, block.rows, panel, 0, block.rows);
    } else {
      run(PutTo<E>{&epilogue, block.row, panel});
    }
  }
  HWY_INLINE void Finish() {}
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

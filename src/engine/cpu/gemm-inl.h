// The micro-kernel, and the loop over blocks of weights and panels of tokens around it:
// Y[n][token] = bias[n] + sum_k W[n][k] X[k][token].
#if defined(KINEOGRAPH_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_GEMM_INL_H_
#undef KINEOGRAPH_CPU_GEMM_INL_H_
#else
#define KINEOGRAPH_CPU_GEMM_INL_H_
#endif

#include "engine/cpu/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// What a kernel does with its sums: write them, or add them to what is there.
enum class Sum { store, add };

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

/// Steps between two times that a kernel does something on the side.
inline constexpr std::size_t kUnroll = 8;

/// Rows of the largest block.
template <Arithmetic kArithmetic>
inline constexpr std::size_t kBlockRows = block_rows(kArithmetic, kMaxRows);

/// Lines that a kernel reads ahead for those who come after it, one of each stream at a time: a burst of prefetches
/// would fill the queue of outstanding misses and stall. Streams 0 and 1 go to the L2 cache only, since the panel and
/// the weights at work fill the L1; 2 and 3, which are needed next, to the L1.
struct ReadAhead {
  const char* line[4] = {};
  std::ptrdiff_t step[4] = {};
  HWY_INLINE void Step() {
    __builtin_prefetch(line[0], 0, 2);
    __builtin_prefetch(line[1], 0, 2);
    __builtin_prefetch(line[2]);
    __builtin_prefetch(line[3]);
    for (std::size_t i = 0; i < 4; ++i) line[i] += step[i];
  }
};

/// kRows x one panel. w: [words][kRows]; x: [words][kStepWords]; y: [kRows][kPanel].
template <std::size_t kRows, Arithmetic kArithmetic, Sum kSum, class Side>
HWY_NOINLINE void Kernel(const std::uint32_t* HWY_RESTRICT w, const std::uint32_t* HWY_RESTRICT x, std::size_t words,
                         const float* HWY_RESTRICT bias, float* HWY_RESTRICT y, const Side& aside) {
  const D d;
  Vec sum[kRows][2];
  KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = hn::Set(d, bias[i]);
  constexpr std::size_t kX = kStepWords<kArithmetic>;
  Side side = aside;
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
  KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
    if constexpr (kSum == Sum::add) {
      sum[i][0] = hn::Add(sum[i][0], hn::Load(d, y + i * kPanel));
      sum[i][1] = hn::Add(sum[i][1], hn::Load(d, y + i * kPanel + kLanes));
    }
    hn::Store(sum[i][0], d, y + i * kPanel);
    hn::Store(sum[i][1], d, y + i * kPanel + kLanes);
  }
}

template <class Side>
using KernelFunction = void (*)(const std::uint32_t*, const std::uint32_t*, std::size_t, const float*, float*,
                                const Side&);

/// The kernel of 2 (i+1) rows at index i.
template <Arithmetic kArithmetic, Sum kSum, class Side>
HWY_INLINE KernelFunction<Side> KernelOf(std::size_t rows) {
  static constexpr KernelFunction<Side> kKernels[] = {
    &Kernel<2, kArithmetic, kSum, Side>,
    &Kernel<4, kArithmetic, kSum, Side>,
    &Kernel<6, kArithmetic, kSum, Side>,
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM_A64
    &Kernel<8, kArithmetic, kSum, Side>,
    &Kernel<10, kArithmetic, kSum, Side>,
    &Kernel<12, kArithmetic, kSum, Side>,
    &Kernel<14, kArithmetic, kSum, Side>,
#endif
  };
  static_assert(std::size(kKernels) == kMaxRows / 2);
  return kKernels[rows / 2 - 1];
}

/// Runs blocks of a linear, one panel of tokens each, for one Gemm. See tiles-inl.h for the matrix unit's.
template <Arithmetic kArithmetic, class Output>
struct BlockRunner {
  HWY_INLINE void Run(const PackedLinear& linear, const PackedLinear::Block& block, const std::uint32_t* x,
                      std::size_t panel, Output& output, const typename Output::Side& aside) {
    KernelOf<kArithmetic, Output::kSum, typename Output::Side>(block.rows)(linear.weights.data() + block.offset, x,
                                                                           linear.words, linear.bias.data() + block.row,
                                                                           output.Target(block.row, panel), aside);
    output.After(block.row, block.rows, panel);
  }
  HWY_INLINE void Finish() {}
};

/// Panels [begin, end) of a tile.
struct PanelRange {
  std::size_t begin, end;
};

/// Bytes of weights that stay in the L2 cache while the panels pass by.
inline constexpr std::size_t kGroupBytes = 288 * 1024;

/// Runs `linear` over the panels. Output is a policy:
///   static constexpr Sum kSum;
///   using Side = ReadAhead;                   // or what is one and does more
///   void Before(row, rows, panel, side);      // called first; may name lines to read ahead, streams 2 and 3
///   float* Target(row, panel);                // where the kernel's [rows][kPanel] sums go
///   void After(row, rows, panel);             // called last; may turn them into something else
/// Instead of After, for the matrix unit:
///   static constexpr bool kInPlace;           // a whole block's sums are wanted as they are, at Target
///   void Take(sums, row, rows, panel, begin, end);  // rows [begin, end) of a block's, in fours
template <Arithmetic kArithmetic, class Output>
HWY_INLINE void Gemm(const PackedLinear& linear, const std::uint32_t* x, std::size_t x_panel_words, PanelRange panels,
                     Output&& output) {
  using Policy = std::remove_reference_t<Output>;
  using Side = typename Policy::Side;
  BlockRunner<kArithmetic, Policy> runner;
  const auto& blocks = linear.blocks;
  const std::size_t block_bytes = linear.words * blocks[0].rows * sizeof(std::uint32_t);
  const std::size_t group = std::clamp<std::size_t>(kGroupBytes / std::max<std::size_t>(1, block_bytes), 1, 8);
  const auto slots = static_cast<std::ptrdiff_t>(linear.words / kUnroll);  // reads ahead of a kernel call
  const auto panel_bytes = static_cast<std::ptrdiff_t>(x_panel_words * sizeof(std::uint32_t));
  Side ahead;
  ahead.line[2] = ahead.line[3] = reinterpret_cast<const char*>(linear.bias.data());
  ahead.step[0] = 64;
  for (std::size_t first = 0; first < blocks.size(); first += group) {
    const std::size_t last = std::min(blocks.size(), first + group);
    // The next group's weights; after the last, what follows in memory: the next layer's (see pack_model).
    ahead.line[0] = reinterpret_cast<const char*>(linear.weights.data() +
                                                  (last < blocks.size() ? blocks[last].offset : linear.weights.size()));
    // And the next panel's activations, spread evenly over the blocks that this panel meets.
    ahead.step[1] = panel_bytes / std::max<std::ptrdiff_t>(1, slots * static_cast<std::ptrdiff_t>(last - first));
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel) {
      const std::size_t next = panel + 1 < panels.end ? panel + 1 : panels.begin;
      ahead.line[1] = reinterpret_cast<const char*>(x + next * x_panel_words);
      for (std::size_t b = first; b < last; ++b) {
        const auto& block = blocks[b];
        output.Before(block.row, block.rows, panel, ahead);
        runner.Run(linear, block, x + panel * x_panel_words, panel, output, ahead);
        ahead.line[0] += slots * ahead.step[0];
        ahead.line[1] += slots * ahead.step[1];
      }
    }
  }
  runner.Finish();
}

/// Output into f32 [panel][row][kPanel].
template <Sum kMode>
struct ToRows {
  using Side = ReadAhead;
  static constexpr Sum kSum = kMode;
  float* rows;
  std::size_t panel_floats;
  HWY_INLINE void Before(std::size_t row, std::size_t, std::size_t panel, ReadAhead& ahead) const {
    if constexpr (kMode == Sum::add) {
      ahead.line[2] = reinterpret_cast<const char*>(Target(row, panel));
      ahead.line[3] = ahead.line[2] + 64;
      ahead.step[2] = ahead.step[3] = 128;
    }
  }
  HWY_INLINE float* Target(std::size_t row, std::size_t panel) const {
    return rows + panel * panel_floats + row * kPanel;
  }
  HWY_INLINE void After(std::size_t, std::size_t, std::size_t) const {}

  static constexpr bool kInPlace = kMode == Sum::store;
  HWY_INLINE void Take(const float* sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    const D d;
    float* to = Target(row, panel);
    for (std::size_t i = 2 * begin; i < 2 * end; ++i) {
      const Vec sum = hn::Load(d, sums + i * kLanes);
      hn::Store(kMode == Sum::add ? hn::Add(sum, hn::Load(d, to + i * kLanes)) : sum, d, to + i * kLanes);
    }
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#include "engine/cpu/tiles-inl.h"

#endif

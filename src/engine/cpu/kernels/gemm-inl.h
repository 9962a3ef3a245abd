// The micro-kernel, and the loop over blocks of weights and panels of tokens around it:
// Y[n][token] = bias[n] + sum_k W[n][k] X[k][token].
#if defined(KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_
#endif

#include "engine/cpu/kernels/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// What becomes of sums: they are written, or added to what is there.
enum class Sum { store, add };

/// A block's sums where a kernel computed them: vector v of row i.
template <std::size_t kRows>
struct RegisterSums {
  const Vec (&sum)[kRows][2];
  HWY_INLINE Vec operator()(std::size_t i, std::size_t v) const { return sum[i][v]; }
};

/// The same in memory, [row][2N].
struct MemorySums {
  const float* sums;
  HWY_INLINE Vec operator()(std::size_t i, std::size_t v) const {
    return hn::Load(D(), sums + i * kPanel + v * kLanes);
  }
};

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
/// would fill the queue of outstanding misses and stall. Stream 0 is the next weights; 1 and 2 are what sums are going
/// to meet. All to the L1 cache, although weights are soon pushed out of it: a prefetch to the L2 stalls on Zen 4.
struct ReadAhead {
  const char* line[3] = {};
  std::ptrdiff_t step[3] = {};
  HWY_INLINE void Step() {
    for (std::size_t i = 0; i < 3; ++i) {
      __builtin_prefetch(line[i]);
      line[i] += step[i];
    }
  }
};

/// The lines of a block's rows, which its sums are going to meet.
HWY_INLINE void ReadRows(const float* rows, ReadAhead& ahead) {
  ahead.line[1] = reinterpret_cast<const char*>(rows);
  ahead.line[2] = ahead.line[1] + 64;
  ahead.step[1] = ahead.step[2] = 128;
}

/// kRows x one panel. w: [words][kRows]; x: [words][kStepWords]. `put` is given the sums.
template <std::size_t kRows, Arithmetic kArithmetic, class Put, class Side>
HWY_NOINLINE void Kernel(const std::uint32_t* HWY_RESTRICT w, const std::uint32_t* HWY_RESTRICT x, std::size_t words,
                         const float* HWY_RESTRICT bias, const Put& put, const Side& aside) {
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
  put(RegisterSums<kRows>{sum}, kRows);
}

template <class Put, class Side>
using KernelFunction = void (*)(const std::uint32_t*, const std::uint32_t*, std::size_t, const float*, const Put&,
                                const Side&);

/// The kernel of 2 (i+1) rows at index i.
template <Arithmetic kArithmetic, class Put, class Side>
HWY_INLINE KernelFunction<Put, Side> KernelOf(std::size_t rows) {
  static constexpr KernelFunction<Put, Side> kKernels[] = {
    &Kernel<2, kArithmetic, Put, Side>,
    &Kernel<4, kArithmetic, Put, Side>,
    &Kernel<6, kArithmetic, Put, Side>,
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM_A64
    &Kernel<8, kArithmetic, Put, Side>,
    &Kernel<10, kArithmetic, Put, Side>,
    &Kernel<12, kArithmetic, Put, Side>,
    &Kernel<14, kArithmetic, Put, Side>,
#endif
  };
  static_assert(std::size(kKernels) == kMaxRows / 2);
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

/// Sums to whoever wants them.
template <class Output>
struct PutTo {
  const Output* output;
  std::size_t row, panel;
  template <class Sums>
  HWY_INLINE void operator()(const Sums& sums, std::size_t rows) const {
    output->Take(sums, row, rows, panel, 0, rows);
  }
};

/// Runs blocks of a linear, one panel of tokens each, for one Gemm. See tiles-inl.h for the matrix unit's.
template <Arithmetic kArithmetic, class Output>
struct BlockRunner {
  HWY_INLINE void Run(const PackedLinear& linear, const PackedLinear::Block& block, const std::uint32_t* x,
                      std::size_t panel, Output& output, const typename Output::Side& aside) {
    const auto run = [&](const auto& put) KINEOGRAPH_ATTR {
      using Put = std::remove_cvref_t<decltype(put)>;
      KernelOf<kArithmetic, Put, typename Output::Side>(block.rows)(
          linear.weights.data() + block.offset, x, linear.words, linear.bias.data() + block.row, put, aside);
    };
    if constexpr (Output::kBuffered) {
      float* const sums = output.Target(block.row, panel);
      run(PutInMemory{sums});
      output.Take(MemorySums{sums}, block.row, block.rows, panel, 0, block.rows);
    } else {
      run(PutTo<Output>{&output, block.row, panel});
    }
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
///   using Side = ReadAhead;                   // or what is one and does more
///   void Before(row, rows, panel, side);      // called first; may name lines to read ahead, streams 1 and 2
///   void Take(sums, row, rows, panel, begin, end);
///                                             // rows [begin, end) of a block's sums: all, or shares of them in fours
///   static constexpr bool kBuffered;          // Take is not worth kernels of its own: sums reach it by way of Target
///   static constexpr bool kInPlace;           // the matrix unit may write a whole block's sums to Target
///   float* Target(row, panel);                // for either
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
  Side ahead;
  ahead.line[1] = ahead.line[2] = reinterpret_cast<const char*>(linear.bias.data());
  ahead.step[0] = 64;
  for (std::size_t first = 0; first < blocks.size(); first += group) {
    const std::size_t last = std::min(blocks.size(), first + group);
    // The next group's weights; after the last, what follows in memory: the next layer's (see pack_model).
    ahead.line[0] = reinterpret_cast<const char*>(linear.weights.data() +
                                                  (last < blocks.size() ? blocks[last].offset : linear.weights.size()));
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel)
      for (std::size_t b = first; b < last; ++b) {
        const auto& block = blocks[b];
        output.Before(block.row, block.rows, panel, ahead);
        runner.Run(linear, block, x + panel * x_panel_words, panel, output, ahead);
        ahead.line[0] += slots * ahead.step[0];
      }
  }
  runner.Finish();
}

/// Output into f32 [panel][row][kPanel].
template <Sum kMode>
struct ToRows {
  using Side = ReadAhead;
  static constexpr bool kBuffered = false, kInPlace = kMode == Sum::store;
  float* rows;
  std::size_t panel_floats;
  HWY_INLINE void Before(std::size_t row, std::size_t, std::size_t panel, ReadAhead& ahead) const {
    if constexpr (kMode == Sum::add) ReadRows(Target(row, panel), ahead);
  }
  HWY_INLINE float* Target(std::size_t row, std::size_t panel) const {
    return rows + panel * panel_floats + row * kPanel;
  }
  template <class Sums>
  HWY_INLINE void Take(const Sums& sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    const D d;
    float* to = Target(row, panel);
    KINEOGRAPH_UNROLL for (std::size_t i = begin; i < end; ++i) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
      float* at = to + i * kPanel + v * kLanes;
      hn::Store(kMode == Sum::add ? hn::Add(sums(i, v), hn::Load(d, at)) : sums(i, v), d, at);
    }
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#include "engine/cpu/kernels/amx-inl.h"

#endif

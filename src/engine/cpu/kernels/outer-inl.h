// The product that weights' gradients are: d_W[n][k] += sum over tokens of d_y[n][token] x[k][token]. In bf16 the
// factors are pairs of neighbouring tokens, words that are kept as floats.
#if defined(KINEOGRAPH_CPU_KERNELS_OUTER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_OUTER_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_OUTER_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_OUTER_INL_H_
#endif

#include <array>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "engine/cpu/kernels/amx-inl.h"
#include "engine/cpu/kernels/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// The sum of a vector's lanes.
HWY_INLINE float SumOf(Vec v) { return hn::GetLane(hn::SumOfLanes(D(), v)); }

/// Words of a row of 2N tokens.
template <Arithmetic kArithmetic>
inline constexpr std::size_t kRowWords = is_paired(kArithmetic) ? kLanes : kPanel;

/// Vector i of the words of a row of 2N floats.
template <Arithmetic kArithmetic>
HWY_INLINE Vec RowWords(const float* row, std::size_t i) {
#if KINEOGRAPH_NATIVE_BF16
  if constexpr (is_paired(kArithmetic)) return NeighboursOf(hn::Load(D(), row), hn::Load(D(), row + kLanes));
#endif
  return hn::Load(D(), row + i * kLanes);
}

/// Rows of four channels of one panel, turned: four rows of words become one row of channels a word.
template <Arithmetic kArithmetic>
HWY_INLINE void TransposeFour(const float* HWY_RESTRICT x, float* HWY_RESTRICT out) {
  const D d;
  const hn::Repartition<std::uint64_t, D> d64;
  constexpr std::size_t kBlocks = kLanes / 4;
  for (std::size_t v = 0; v < kRowWords<kArithmetic> / kLanes; ++v) {
    const Vec r0 = RowWords<kArithmetic>(x, v), r1 = RowWords<kArithmetic>(x + kPanel, v);
    const Vec r2 = RowWords<kArithmetic>(x + 2 * kPanel, v), r3 = RowWords<kArithmetic>(x + 3 * kPanel, v);
    // Within each block of four lanes: (r0, r1) and (r2, r3) by pairs, then pairs by pairs.
    const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
    const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
    const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
    const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
    HWY_ALIGN float turned[4][kLanes];
    hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, turned[0]);
    hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, turned[1]);
    hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, turned[2]);
    hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, turned[3]);
    const hn::CappedTag<float, 4> d4;
    for (std::size_t block = 0; block < kBlocks; ++block)
      for (std::size_t j = 0; j < 4; ++j)
        hn::Store(hn::Load(d4, turned[j] + 4 * block), d4, out + (v * kLanes + 4 * block + j) * kPanel);
  }
}

/// Panels of x [panel][channel][2N tokens] -> out [channels / 2N][panel * words of a row][2N channels]; channels past
/// the last are zeros.
template <Arithmetic kArithmetic>
HWY_INLINE void TransposePanels(const float* x, std::size_t x_panel, std::size_t channels, PanelRange panels,
                                std::size_t all_panels, float* out) {
  constexpr std::size_t kWords = kRowWords<kArithmetic>;
  const std::size_t padded = round_up(channels, kPanel);
  for (std::size_t panel = panels.begin; panel < panels.end; ++panel) {
    const float* from = x + panel * x_panel;
    const auto to = [&](std::size_t c) {
      return out + (c / kPanel * all_panels + panel) * kWords * kPanel + c % kPanel;
    };
    std::size_t c = 0;
    for (; c + 4 <= channels; c += 4) TransposeFour<kArithmetic>(from + c * kPanel, to(c));
    for (; c < padded; ++c) {
      HWY_ALIGN float words[kWords] = {};
      if (c < channels)
        for (std::size_t i = 0; i < kWords / kLanes; ++i)
          hn::Store(RowWords<kArithmetic>(from + c * kPanel, i), D(), words + i * kLanes);
      for (std::size_t i = 0; i < kWords; ++i) std::memcpy(to(c) + i * kPanel, words + i, sizeof(float));
    }
  }
}

/// Rows [begin, end) of all panels of y [panel][row][2N tokens] as pairs of tokens [panel][row][N].
template <Arithmetic kArithmetic>
HWY_INLINE void PairTokens(const float* y, std::size_t y_panel, std::size_t begin, std::size_t end, std::size_t panels,
                           float* out, std::size_t out_panel) {
  for (std::size_t panel = 0; panel < panels; ++panel)
    for (std::size_t n = begin; n < end; ++n)
      hn::Store(RowWords<kArithmetic>(y + panel * y_panel + n * kPanel, 0), D(), out + panel * out_panel + n * kLanes);
}

/// out[c] += the sums of 2N channels, of which `valid` exist.
HWY_INLINE void AddToRow(Vec low, Vec high, float* HWY_RESTRICT out, std::size_t valid) {
  const D d;
  if (valid == kPanel) {
    hn::StoreU(hn::Add(low, hn::LoadU(d, out)), d, out);
    hn::StoreU(hn::Add(high, hn::LoadU(d, out + kLanes)), d, out + kLanes);
    return;
  }
  HWY_ALIGN float lanes[kPanel];
  hn::Store(low, d, lanes);
  hn::Store(high, d, lanes + kLanes);
  for (std::size_t c = 0; c < valid; ++c) out[c] += lanes[c];
}

/// kRows of d_y against 2N channels of x; d_y: [panel][row][words], x: [words][2N channels].
/// out [kRows][stride] += the sums, of which `valid` channels exist.
template <std::size_t kRows, Arithmetic kArithmetic>
HWY_NOINLINE void OuterKernel(const float* HWY_RESTRICT d_y, std::size_t d_y_panel, const float* HWY_RESTRICT x,
                              std::size_t panels, float* HWY_RESTRICT out, std::size_t stride, std::size_t valid) {
  const D d;
  constexpr std::size_t kLine = 64 / sizeof(float), kWords = kRowWords<kArithmetic>;
  Vec sum[kRows][2];
  KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
    sum[i][0] = sum[i][1] = hn::Zero(d);
    for (std::size_t c = 0; c < kPanel; c += kLine) __builtin_prefetch(out + i * stride + c, 1);
  }
  for (std::size_t panel = 0; panel < panels; ++panel, d_y += d_y_panel) {
    // The next panel's rows: their stride is one that no hardware foresees.
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) for (std::size_t c = 0; c < kWords; c += kLine)
        __builtin_prefetch(d_y + d_y_panel + i * kWords + c);
    constexpr std::size_t kSteps = std::min<std::size_t>(8, kWords);
    for (std::size_t first = 0; first < kWords; first += kSteps, x += kSteps * kPanel) {
      KINEOGRAPH_UNROLL for (std::size_t u = 0; u < kSteps; ++u) {
        const Vec x0 = hn::Load(d, x + u * kPanel), x1 = hn::Load(d, x + u * kPanel + kLanes);
        KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
          const Vec y = hn::Set(d, d_y[i * kWords + first + u]);
          sum[i][0] = MultiplyAdd<kArithmetic>(y, x0, sum[i][0]);
          sum[i][1] = MultiplyAdd<kArithmetic>(y, x1, sum[i][1]);
        }
      }
    }
  }
  KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) AddToRow(sum[i][0], sum[i][1], out + i * stride, valid);
}

#if KINEOGRAPH_NATIVE_BF16
/// Up to 32 rows on the matrix unit. A row's N pairs of tokens, and those of 2N channels, are registers as they lie.
inline void OuterAmx(const float* HWY_RESTRICT d_y, std::size_t d_y_panel, std::size_t rows,
                     const float* HWY_RESTRICT x, std::size_t panels, float* HWY_RESTRICT out, std::size_t stride,
                     std::size_t valid) {
  const D d;
  HWY_ALIGN float sums[kAmxBlockRows * kPanel];
  HWY_ALIGN float rest[2][kRegister] = {};
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t c = 0; c < kPanel; c += kLanes) __builtin_prefetch(out + i * stride + c, 1);
  // Rows that are not there are zeros: behind the last panel there may be no memory.
  const auto half = [&](std::size_t which) KINEOGRAPH_ATTR -> const float* {
    const float* const from = d_y + which * kRegister;
    const std::size_t first = which * kAmxRows;
    if (rows >= first + kAmxRows) return from;
    if (rows > first) std::copy_n(from, (rows - first) * kAmxWords, rest[which]);
    return rest[which];
  };
  ZeroSums();
  for (std::size_t panel = 0; panel < panels; ++panel, d_y += d_y_panel, x += kLanes * kPanel) {
    const float *upper = half(0), *lower = half(1);
    MemoryIsRead();
    if (rows > kAmxRows)
      MultiplyRegisters<2>(upper, lower, x);
    else
      MultiplyRegisters<1>(upper, lower, x);
  }
  StoreSums<2>(sums);
  for (std::size_t i = 0; i < rows; ++i)
    AddToRow(hn::Load(d, sums + i * kPanel), hn::Load(d, sums + i * kPanel + kLanes), out + i * stride, valid);
}
#endif

using OuterFunction = void (*)(const float*, std::size_t, const float*, std::size_t, float*, std::size_t, std::size_t);

/// The kernel of any number of rows up to kMaxRows.
template <Arithmetic kArithmetic>
HWY_INLINE OuterFunction OuterOf(std::size_t rows) {
  static constexpr auto kKernels = []<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
    return std::array<OuterFunction, sizeof...(kIndex)>{&OuterKernel<kIndex + 1, kArithmetic>...};
  }
  (std::make_index_sequence<kMaxRows>());
  return kKernels[rows - 1];
}

/// Rows [begin, end) of d_y [panel][row][words]: out[n][k] (row-major, `stride` between rows) += sum over tokens of
/// d_y[n] x[k]. `transposed` is TransposePanels of x.
template <Arithmetic kArithmetic>
HWY_INLINE void AddOuter(const float* d_y, std::size_t d_y_panel, std::size_t begin, std::size_t end,
                         const float* transposed, std::size_t channels, std::size_t panels, float* out,
                         std::size_t stride) {
  constexpr std::size_t kWords = kRowWords<kArithmetic>;
#if KINEOGRAPH_NATIVE_BF16
  if constexpr (kArithmetic == Arithmetic::bf16_amx) {
    const AmxRegisters registers;
    for (std::size_t k = 0; k < channels; k += kPanel)
      for (std::size_t n = begin; n < end; n += kAmxBlockRows)
        OuterAmx(d_y + n * kWords, d_y_panel, std::min(kAmxBlockRows, end - n), transposed + k * panels * kWords,
                 panels, out + n * stride + k, stride, std::min(kPanel, channels - k));
    return;
  }
#endif
  // Kernels of nearly equal height.
  const std::size_t count = end - begin, kernels = (count + kMaxRows - 1) / kMaxRows;
  for (std::size_t k = 0; k < channels; k += kPanel)
    for (std::size_t i = 0; i < kernels; ++i) {
      const std::size_t n = begin + count * i / kernels, rows = begin + count * (i + 1) / kernels - n;
      OuterOf<kArithmetic>(rows)(d_y + n * kWords, d_y_panel, transposed + k * panels * kWords, panels,
                                 out + n * stride + k, stride, std::min(kPanel, channels - k));
    }
}

/// Rows [begin, end) of d_y [panel][row][2N tokens]: bias[n] += the sum of d_y[n].
HWY_INLINE void AddSums(const float* d_y, std::size_t d_y_panel, std::size_t begin, std::size_t end, std::size_t panels,
                        float* bias) {
  const D d;
  for (std::size_t n = begin; n < end; ++n) {
    Vec sum = hn::Zero(d);
    for (std::size_t panel = 0; panel < panels; ++panel) {
      const float* row = d_y + panel * d_y_panel + n * kPanel;
      sum = hn::Add(sum, hn::Add(hn::Load(d, row), hn::Load(d, row + kLanes)));
    }
    bias[n] += SumOf(sum);
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

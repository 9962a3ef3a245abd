// The product that weights' gradients are: d_W[n][k] += sum over tokens of d_y[n][token] x[k][token].
#if defined(KINEOGRAPH_CPU_OUTER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_OUTER_INL_H_
#undef KINEOGRAPH_CPU_OUTER_INL_H_
#else
#define KINEOGRAPH_CPU_OUTER_INL_H_
#endif

#include <utility>

#include "engine/cpu/gemm-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// The sum of a vector's lanes.
HWY_INLINE float SumOf(Vec v) { return hn::GetLane(hn::SumOfLanes(D(), v)); }

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void TransposeFour(const float* HWY_RESTRICT x, float* HWY_RESTRICT out) {
  for (std::size_t j = 0; j < 4; ++j)
    for (std::size_t token = 0; token < kPanel; ++token) out[token * kPanel + j] = x[j * kPanel + token];
}
#else
/// Channels [4 i, 4 i + 4) of one panel, turned: four rows of lanes become one row of channels a token.
HWY_INLINE void TransposeFour(const float* HWY_RESTRICT x, float* HWY_RESTRICT out) {
  const D d;
  const hn::Repartition<std::uint64_t, D> d64;
  constexpr std::size_t kBlocks = kLanes / 4;
  for (std::size_t v = 0; v < 2; ++v) {
    const Vec r0 = hn::Load(d, x + v * kLanes), r1 = hn::Load(d, x + kPanel + v * kLanes);
    const Vec r2 = hn::Load(d, x + 2 * kPanel + v * kLanes), r3 = hn::Load(d, x + 3 * kPanel + v * kLanes);
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

#endif

/// Panels of x [panel][channel][2N tokens] -> out [channels / 2N][panel * 2N tokens][2N channels]; channels past the
/// last are zeros.
HWY_INLINE void TransposePanels(const float* x, std::size_t x_panel, std::size_t channels, PanelRange panels,
                                std::size_t all_panels, float* out) {
  const std::size_t padded = round_up(channels, kPanel);
  for (std::size_t panel = panels.begin; panel < panels.end; ++panel) {
    const float* from = x + panel * x_panel;
    const auto to = [&](std::size_t c) {
      return out + (c / kPanel * all_panels + panel) * kPanel * kPanel + c % kPanel;
    };
    std::size_t c = 0;
    for (; c + 4 <= channels; c += 4) TransposeFour(from + c * kPanel, to(c));
    for (; c < padded; ++c)
      for (std::size_t token = 0; token < kPanel; ++token)
        to(c)[token * kPanel] = c < channels ? from[c * kPanel + token] : 0.0f;
  }
}

/// kRows of d_y against 2N channels of x; d_y: [panel][row][2N tokens], x: [tokens][2N channels].
/// out [kRows][stride] += the sums, of which `valid` channels exist.
template <std::size_t kRows>
HWY_NOINLINE void OuterKernel(const float* HWY_RESTRICT d_y, std::size_t d_y_panel, const float* HWY_RESTRICT x,
                              std::size_t panels, float* HWY_RESTRICT out, std::size_t stride, std::size_t valid) {
  const D d;
  constexpr std::size_t kLine = 64 / sizeof(float);
  Vec sum[kRows][2];
  KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
    sum[i][0] = sum[i][1] = hn::Zero(d);
    for (std::size_t c = 0; c < kPanel; c += kLine) __builtin_prefetch(out + i * stride + c, 1);
  }
  for (std::size_t panel = 0; panel < panels; ++panel, d_y += d_y_panel) {
    // The next panel's rows: their stride is one that no hardware foresees.
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) for (std::size_t c = 0; c < kPanel; c += kLine)
        __builtin_prefetch(d_y + d_y_panel + i * kPanel + c);
    constexpr std::size_t kUnroll = std::min<std::size_t>(8, kPanel);
    for (std::size_t first = 0; first < kPanel; first += kUnroll, x += kUnroll * kPanel) {
      KINEOGRAPH_UNROLL for (std::size_t u = 0; u < kUnroll; ++u) {
        const Vec x0 = hn::Load(d, x + u * kPanel), x1 = hn::Load(d, x + u * kPanel + kLanes);
        KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
          const Vec y = hn::Set(d, d_y[i * kPanel + first + u]);
          sum[i][0] = hn::MulAdd(y, x0, sum[i][0]);
          sum[i][1] = hn::MulAdd(y, x1, sum[i][1]);
        }
      }
    }
  }
  if (valid == kPanel) {
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kRows; ++i) {
      hn::StoreU(hn::Add(sum[i][0], hn::LoadU(d, out + i * stride)), d, out + i * stride);
      hn::StoreU(hn::Add(sum[i][1], hn::LoadU(d, out + i * stride + kLanes)), d, out + i * stride + kLanes);
    }
    return;
  }
  HWY_ALIGN float lanes[kPanel];
  for (std::size_t i = 0; i < kRows; ++i) {
    hn::Store(sum[i][0], d, lanes);
    hn::Store(sum[i][1], d, lanes + kLanes);
    for (std::size_t c = 0; c < valid; ++c) out[i * stride + c] += lanes[c];
  }
}

using OuterFunction = void (*)(const float*, std::size_t, const float*, std::size_t, float*, std::size_t, std::size_t);

/// The kernel of any number of rows up to kMaxRows.
HWY_INLINE OuterFunction OuterOf(std::size_t rows) {
  static constexpr auto kKernels = []<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
    return std::array<OuterFunction, sizeof...(kIndex)>{&OuterKernel<kIndex + 1>...};
  }
  (std::make_index_sequence<kMaxRows>());
  return kKernels[rows - 1];
}

/// Rows [begin, end) of d_y: out[n][k] (row-major, `stride` between rows) += sum over tokens of d_y[n] x[k].
/// `transposed` is TransposePanels of x. Bias: bias[n] += the sum of d_y[n], unless null.
HWY_INLINE void AddOuter(const float* d_y, std::size_t d_y_panel, std::size_t begin, std::size_t end,
                         const float* transposed, std::size_t channels, std::size_t panels, float* out,
                         std::size_t stride, float* bias) {
  const D d;
  if (out != nullptr)
    for (std::size_t k = 0; k < channels; k += kPanel)
      for (std::size_t n = begin; n < end; n += kMaxRows)
        OuterOf(std::min(kMaxRows, end - n))(d_y + n * kPanel, d_y_panel, transposed + k * panels * kPanel, panels,
                                             out + n * stride + k, stride, std::min(kPanel, channels - k));
  if (bias == nullptr) return;
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

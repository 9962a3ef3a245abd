// The loop over blocks of weights and panels of tokens around the micro-kernels:
// Y[n][token] = bias[n] + sum_k W[n][k] X[k][token].
#if defined(KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_GEMM_INL_H_
#endif

#include <type_traits>

#include "base/assert.h"
#include "engine/cpu/kernels/amx-inl.h"
#include "engine/cpu/kernels/micro_kernel-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

#if KINEOGRAPH_NATIVE_BF16
template <Arithmetic kArithmetic, Epilogue E>
using BlockRunner = std::conditional_t<kArithmetic == Arithmetic::bf16_amx, AmxRunner<E>, VectorRunner<kArithmetic, E>>;
#else
template <Arithmetic kArithmetic, Epilogue E>
using BlockRunner = VectorRunner<kArithmetic, E>;
#endif

/// Bytes of weights that stay in the L2 cache while the panels pass by.
inline constexpr std::size_t kResidentBytes = 288 * 1024;

/// Runs `linear` over the panels of x [panel][word][2N], each of which is `x_panel_words` after the one before.
template <Arithmetic kArithmetic, class E>
requires Epilogue<std::remove_reference_t<E>> HWY_INLINE void Gemm(const LinearView& linear, const std::uint32_t* x,
                                                                   std::size_t x_panel_words, PanelRange panels,
                                                                   E&& epilogue) {
  using Policy = std::remove_reference_t<E>;
  KINEOGRAPH_ASSERT(!linear.empty() && panels.begin <= panels.end);
  KINEOGRAPH_ASSERT(x_panel_words % kLanes == 0 && (x_panel_words != 0 || panels.end - panels.begin <= 1));
  BlockRunner<kArithmetic, Policy> runner;
  const std::span<const PackedLinear::Block> blocks = linear.blocks;
  const std::size_t block_bytes = linear.words * blocks[0].rows * sizeof(std::uint32_t);
  const std::size_t resident = std::clamp<std::size_t>(kResidentBytes / std::max<std::size_t>(1, block_bytes), 1, 8);
  typename Policy::Side side;
  side.line[1] = side.line[2] = reinterpret_cast<const char*>(linear.bias);
  side.step[0] = 64;
  for (std::size_t first = 0; first < blocks.size(); first += resident) {
    const std::size_t last = std::min(blocks.size(), first + resident);
    // The next resident blocks; after the last, the words behind them: the next layer's (see pack_model).
    side.line[0] =
        reinterpret_cast<const char*>(linear.weights + (last < blocks.size() ? blocks[last].offset : linear.size));
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel)
      for (std::size_t b = first; b < last; ++b) {
        const auto& block = blocks[b];
        epilogue.Before(block.row, block.rows, panel, side);
        runner.Run(linear, block, x + panel * x_panel_words, panel, epilogue, side);
      }
  }
  runner.Finish();
}

/// `count` tokens of `dim` channels as operands: lanes are tokens; at(token, channel) is a float.
template <Arithmetic kArithmetic, class At>
void TokensAsOperands(std::size_t count, std::size_t dim, const At& at, std::uint32_t* operands) {
  const std::size_t panels = (count + kPanel - 1) / kPanel;
  const std::size_t panel_words = OperandWords<kArithmetic>(dim);
  HWY_ALIGN float even[kLanes], odd[kLanes];
  for (std::size_t v = 0; v < 2 * panels; ++v) {
    std::uint32_t* row = operands + PlaceOf(v, panel_words);
    for (std::size_t c = 0; c < dim; c += 2, row += kPairWords<kArithmetic>) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const std::size_t t = v * kLanes + lane;
        even[lane] = t < count ? at(t, c) : 0.0f;
        odd[lane] = t < count && c + 1 < dim ? at(t, c + 1) : 0.0f;
      }
      StoreOperandPair<kArithmetic>(hn::Load(D(), even), hn::Load(D(), odd), row);
    }
  }
}

/// y = linear(tokens) for tokens as operands: y is [panel][rows][2N].
template <Arithmetic kArithmetic>
void ProjectOperands(const PackedLinear& linear, const std::uint32_t* operands, std::size_t count, float* y) {
  const std::size_t panels = (count + kPanel - 1) / kPanel;
  Gemm<kArithmetic>(linear, operands, OperandWords<kArithmetic>(linear.cols), {0, panels},
                    ToRows<Sum::store>{y, linear.rows * kPanel});
}

/// y = linear(tokens) for `count` tokens of `dim` floats (row-major). `operands` has room for the tokens as operands.
template <Arithmetic kArithmetic>
void ProjectTokens(const PackedLinear& linear, const float* tokens, std::size_t count, std::size_t dim,
                   std::uint32_t* operands, float* y) {
  TokensAsOperands<kArithmetic>(
      count, dim, [&](std::size_t t, std::size_t c) { return tokens[t * dim + c]; }, operands);
  ProjectOperands<kArithmetic>(linear, operands, count, y);
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

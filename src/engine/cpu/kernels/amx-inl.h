// The micro-kernel of processors with a matrix unit (Intel AMX): 32 rows of weights x a panel of 32 tokens in four
// registers of sums, 16 pairs of channels a step. Activations lie as everywhere, [pair][2N]: 16 pairs of N tokens are a
// register as they are. Weights are packed in registers (layout.h).
//
// The unit works by itself for 64 cycles a step, so what becomes of a block's sums is done beside the next block's
// steps.
#if defined(KINEOGRAPH_CPU_KERNELS_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_AMX_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_AMX_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_AMX_INL_H_
#endif

#include "engine/cpu/kernels/gemm-inl.h"

#if KINEOGRAPH_NATIVE_BF16
KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// The operand of LDTILECFG: eight registers of 16 rows of 64 bytes.
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// Holds the unit's registers.
class TileRegisters {
 public:
  TileRegisters() {
    static constexpr TileConfiguration kAll{};
    _tile_loadconfig(&kAll);
  }
  ~TileRegisters() { _tile_release(); }  // else every switch of threads would save 8 KiB
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

/// The intrinsics do not tell the compiler that they read and write memory.
HWY_INLINE void MemoryIsRead() { __asm__ volatile("" ::: "memory"); }

/// Words of a register, and bytes between two rows of a panel.
inline constexpr std::size_t kRegister = kTileRows * kTileWords;
inline constexpr int kPanelBytes = kPanel * sizeof(float);

// Registers 0 to 3 are sums of 32 rows x 2N columns, or of the first 16 rows; 4 and 5 one factor, 6 and 7 the other.

HWY_INLINE void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

/// Adds to the sums of 16 kTiles rows: pairs of `upper` and `lower`, registers as they lie, by 16 rows of a panel.
template <std::size_t kTiles, class T>
HWY_INLINE void MultiplyRegisters(const T* upper, const T* lower, const T* panel) {
  _tile_loadd(6, panel, kPanelBytes);
  _tile_loadd(4, upper, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, panel + kLanes, kPanelBytes);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (kTiles == 2) {
    _tile_loadd(5, lower, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

/// Sums of 16 kTiles rows -> [16 kTiles][2N].
template <std::size_t kTiles>
HWY_INLINE void StoreSums(float* to) {
  _tile_stored(0, to, kPanelBytes);
  _tile_stored(1, to + kLanes, kPanelBytes);
  if constexpr (kTiles == 2) {
    _tile_stored(2, to + kTileRows * kPanel, kPanelBytes);
    _tile_stored(3, to + kTileRows * kPanel + kLanes, kPanelBytes);
  }
  MemoryIsRead();
}

/// Sums of a block that its policy has not taken yet.
template <class Output>
struct PendingBlock {
  Output* output = nullptr;
  std::size_t row = 0, rows = 0, panel = 0, taken = 0;
  HWY_INLINE void Take(const float* sums, std::size_t count) {
    if (taken == rows) return;
    const std::size_t end = std::min(rows, taken + count);
    output->Take(MemorySums{sums}, row, rows, panel, taken, end);
    taken = end;
  }
};

/// Up to 16 kTiles rows x one panel. w: biases, if any, [kTiles][16][16], then [words / 16][kTiles][16][16], zeros past
/// the end; x: [words][2N]; to: [16 kTiles][2N]. Meanwhile `pending` is taken from `sums`.
template <std::size_t kTiles, class Output>
HWY_NOINLINE void TileKernel(const std::uint32_t* HWY_RESTRICT w, bool biased, const std::uint32_t* HWY_RESTRICT x,
                             std::size_t words, float* to, const float* sums, PendingBlock<Output> pending,
                             ReadAhead side) {
  MemoryIsRead();
  if (biased) {
    _tile_loadd(0, w, 64);
    _tile_loadd(1, w, 64);
    if constexpr (kTiles == 2) {
      _tile_loadd(2, w + kRegister, 64);
      _tile_loadd(3, w + kRegister, 64);
    }
    w += kTiles * kRegister;
  } else {
    ZeroSums();
  }
  const auto step = [&](const std::uint32_t* pairs) KINEOGRAPH_ATTR {
    MultiplyRegisters<kTiles>(w, w + kRegister, pairs);
    w += kTiles * kRegister;
  };
  const std::size_t share = round_up((pending.rows + words / kTileWords) / (words / kTileWords + 1), 4);
  std::size_t left = words;
  for (; left >= kTileWords; left -= kTileWords, x += kTileWords * kPanel) {
    for (std::size_t i = 0; i < kTileWords; i += kUnroll) side.Step();
    step(x);
    pending.Take(sums, share);
  }
  if (left != 0) {
    // Zero weights do not do: what follows the panel may be no number.
    HWY_ALIGN std::uint32_t rest[kTileWords * kPanel] = {};
    std::copy_n(x, left * kPanel, rest);
    MemoryIsRead();
    for (std::size_t i = kUnroll; i <= left; i += kUnroll) side.Step();
    step(rest);
  }
  pending.Take(sums, pending.rows);
  StoreSums<kTiles>(to);
}

template <class Output>
struct BlockRunner<Arithmetic::bf16_tiles, Output> {
  void Run(const PackedLinear& linear, const PackedLinear::Block& block, const std::uint32_t* x, std::size_t panel,
           Output& output, const ReadAhead& aside) {
    float* to = sums_;
    if constexpr (Output::kInPlace) {
      if (block.rows % kTileRows == 0) to = output.Target(block.row, panel);
    }
    const auto kernel = block.rows > kTileRows ? &TileKernel<2, Output> : &TileKernel<1, Output>;
    kernel(linear.weights.data() + block.offset, linear.biased, x, linear.words, to, sums_, pending_, aside);
    pending_ = to == sums_ ? PendingBlock<Output>{&output, block.row, block.rows, panel} : PendingBlock<Output>();
  }
  void Finish() { pending_.Take(sums_, pending_.rows); }

 private:
  TileRegisters registers_;
  PendingBlock<Output> pending_;
  HWY_ALIGN float sums_[kTileBlockRows * kPanel];
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE
#endif

#endif

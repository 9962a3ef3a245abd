// The micro-kernel of processors with a matrix unit (Intel AMX): 32 rows of weights x a panel of 32 tokens in four
// registers of sums, 16 pairs of channels a step. Activations lie as everywhere, [pair][2N]: 16 pairs of N tokens are a
// register as they are. Weights are packed in registers (layout.h).
//
// The unit works by itself for 64 cycles a step, so a block's epilogue runs beside the next block's
// steps.
#if defined(KINEOGRAPH_CPU_KERNELS_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_AMX_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_AMX_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_AMX_INL_H_
#endif

#include "base/assert.h"
#include "engine/cpu/kernels/epilogue-inl.h"

#if KINEOGRAPH_NATIVE_BF16
KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// The operand of LDTILECFG: eight registers of 16 rows of 64 bytes.
struct alignas(64) AmxConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// Holds the unit's registers.
class AmxRegisters {
 public:
  AmxRegisters() {
    static constexpr AmxConfiguration kAll{};
    _tile_loadconfig(&kAll);
  }
  ~AmxRegisters() { _tile_release(); }  // else every switch of threads would save 8 KiB
  AmxRegisters(const AmxRegisters&) = delete;
  AmxRegisters& operator=(const AmxRegisters&) = delete;
};

/// The intrinsics do not tell the compiler that they read and write memory.
HWY_INLINE void MemoryIsRead() { __asm__ volatile("" ::: "memory"); }

/// Words of a register, and bytes between two rows of a panel.
inline constexpr std::size_t kRegister = kAmxRows * kAmxWords;
inline constexpr int kPanelBytes = kPanel * sizeof(float);

// Registers 0 to 3 are sums of 32 rows x 2N columns, or of the first 16 rows; 4 and 5 one factor, 6 and 7 the other.

HWY_INLINE void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

/// Adds to the sums of 16 kHalves rows: pairs of `upper` and `lower`, registers as they lie, by 16 rows of a panel.
template <std::size_t kHalves, class T>
HWY_INLINE void MultiplyRegisters(const T* upper, const T* lower, const T* panel) {
  _tile_loadd(6, panel, kPanelBytes);
  _tile_loadd(4, upper, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, panel + kLanes, kPanelBytes);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (kHalves == 2) {
    _tile_loadd(5, lower, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

/// Sums of 16 kHalves rows -> [16 kHalves][2N].
template <std::size_t kHalves>
HWY_INLINE void StoreSums(float* to) {
  _tile_stored(0, to, kPanelBytes);
  _tile_stored(1, to + kLanes, kPanelBytes);
  if constexpr (kHalves == 2) {
    _tile_stored(2, to + kAmxRows * kPanel, kPanelBytes);
    _tile_stored(3, to + kAmxRows * kPanel + kLanes, kPanelBytes);
  }
  MemoryIsRead();
}

/// Sums of a block that its epilogue has not taken yet.
template <Epilogue E>
struct PendingBlock {
  E* epilogue = nullptr;
  std::size_t row = 0, rows = 0, panel = 0, taken = 0;
  HWY_INLINE void Take(const float* sums, std::size_t count) {
    if (taken == rows) return;
    const std::size_t end = std::min(rows, taken + count);
    epilogue->Take(MemorySums{sums}, row, rows, panel, taken, end);
    taken = end;
  }
};

/// Up to 16 kHalves rows x one panel. w: biases, if any, [kHalves][16][16], then [words / 16][kHalves][16][16], zeros
/// past the end; x: [words][2N]; to: [16 kHalves][2N]. Meanwhile `pending` is taken from `sums`, and `beside` does
/// something every kUnroll words.
template <std::size_t kHalves, Epilogue E>
HWY_NOINLINE void AmxKernel(const std::uint32_t* HWY_RESTRICT w, bool biased, const std::uint32_t* HWY_RESTRICT x,
                            std::size_t words, float* to, const float* sums, PendingBlock<E> pending,
                            ReadAhead& beside) {
  KINEOGRAPH_ASSERT(is_aligned(w, 64) && is_aligned(x, 64) && is_aligned(to, 64));
  ReadAhead side = beside;
  MemoryIsRead();
  if (biased) {
    _tile_loadd(0, w, 64);
    _tile_loadd(1, w, 64);
    if constexpr (kHalves == 2) {
      _tile_loadd(2, w + kRegister, 64);
      _tile_loadd(3, w + kRegister, 64);
    }
    w += kHalves * kRegister;
  } else {
    ZeroSums();
  }
  const auto step = [&](const std::uint32_t* pairs) KINEOGRAPH_ATTR {
    MultiplyRegisters<kHalves>(w, w + kRegister, pairs);
    w += kHalves * kRegister;
  };
  const std::size_t share = round_up((pending.rows + words / kAmxWords) / (words / kAmxWords + 1), 4);
  std::size_t left = words;
  for (; left >= kAmxWords; left -= kAmxWords, x += kAmxWords * kPanel) {
    for (std::size_t i = 0; i < kAmxWords; i += kUnroll) side.Step();
    step(x);
    pending.Take(sums, share);
  }
  if (left != 0) {
    // Zero weights are not enough: the words behind the panel may be NaN.
    HWY_ALIGN std::uint32_t rest[kAmxWords * kPanel] = {};
    std::copy_n(x, left * kPanel, rest);
    MemoryIsRead();
    for (std::size_t i = kUnroll; i <= left; i += kUnroll) side.Step();
    step(rest);
  }
  pending.Take(sums, pending.rows);
  StoreSums<kHalves>(to);
  beside = side;
}

/// Runs blocks of a linear, one panel of tokens each, for one Gemm.
template <Epilogue E>
struct AmxRunner {
  static_assert(std::same_as<typename E::Side, ReadAhead>, "beside the matrix unit there is time to do it all in Take");

  void Run(const LinearView& linear, const PackedLinear::Block& block, const std::uint32_t* x, std::size_t panel,
           E& epilogue, ReadAhead& side) {
    KINEOGRAPH_ASSERT(block.rows % 2 == 0 && block.rows != 0 && block.rows <= kAmxBlockRows);
    float* to = sums_;
    if constexpr (E::kInPlace) {
      if (block.rows % kAmxRows == 0) to = epilogue.Target(block.row, panel);
    }
    const auto kernel = block.rows > kAmxRows ? &AmxKernel<2, E> : &AmxKernel<1, E>;
    kernel(linear.weights + block.offset, linear.biased, x, linear.words, to, sums_, pending_, side);
    pending_ = to == sums_ ? PendingBlock<E>{&epilogue, block.row, block.rows, panel} : PendingBlock<E>();
  }
  void Finish() { pending_.Take(sums_, pending_.rows); }

 private:
  AmxRegisters registers_;
  PendingBlock<E> pending_;
  HWY_ALIGN float sums_[kAmxBlockRows * kPanel];
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE
#endif

#endif

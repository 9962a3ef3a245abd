// Epilogues: the last step of a product, on sums in registers or in L1. Their contract with the kernels,
// and all that need no more than pointers; tile/to_image-inl.h has the one that writes the caller's image.
#if defined(KINEOGRAPH_CPU_KERNELS_EPILOGUE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_EPILOGUE_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_EPILOGUE_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_EPILOGUE_INL_H_
#endif

#include <concepts>

#include "base/assert.h"
#include "engine/cpu/kernels/activation-inl.h"
#include "engine/cpu/kernels/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Sums are stored, or added to the values there.
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

/// Rows of the largest block.
template <Arithmetic kArithmetic>
inline constexpr std::size_t kBlockRows = block_rows(kArithmetic, kMaxRows);

/// Steps of a kernel between two calls of ReadAhead::Step.
inline constexpr std::size_t kUnroll = 8;

/// Lines that a kernel reads ahead for the code behind it, one of each stream at a time: a burst of prefetches
/// would fill the queue of outstanding misses and stall. Stream 0 is the next weights; 1 and 2 are the values that sums
/// meet. All to the L1 cache, although weights are soon pushed out of it: a prefetch to the L2 stalls on Zen 4.
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

/// An epilogue of Gemm. A kernel computes one block of rows for one panel at a time; `row` is the block's first.
///
///   using Side                            ReadAhead, or a class derived from it: Step() is called beside the products
///   Before(row, rows, panel, side)        comes first; may name lines to read ahead, streams 1 and 2
///   Take(sums, row, rows, panel, b, e)    consumes rows [b, e) of the block's sums: all, or shares of them in fours
///   kBuffered                             sums reach Take by way of Target: kernels of its own are not worth it
///   kInPlace                              the matrix unit may write a whole block's sums to Target and not call Take
///   Target(row, panel) -> float*          where, for either: [rows][2N] floats on a cache line
///   After(side)                           optional, where kBuffered: after the kernel and before Take
template <class E>
concept Epilogue = std::derived_from<typename E::Side, ReadAhead> &&
    requires(E& epilogue, MemorySums sums, std::size_t n, typename E::Side& side) {
  { E::kBuffered } -> std::convertible_to<bool>;
  { E::kInPlace } -> std::convertible_to<bool>;
  epilogue.Before(n, n, n, side);
  epilogue.Take(sums, n, n, n, n, n);
} &&(!(E::kBuffered || E::kInPlace) || requires(E & epilogue, std::size_t n) {
  { epilogue.Target(n, n) } -> std::same_as<float*>;
});

/// Sums into f32 [panel][row][2N].
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

/// rows += gate[row] * sums, f32 [panel][row][2N].
struct ToGatedRows {
  using Side = ReadAhead;
  static constexpr bool kBuffered = false, kInPlace = false;
  float* rows;
  std::size_t panel_floats;
  const float* gate;
  HWY_INLINE float* At(std::size_t row, std::size_t panel) const { return rows + panel * panel_floats + row * kPanel; }
  HWY_INLINE void Before(std::size_t row, std::size_t, std::size_t panel, ReadAhead& ahead) const {
    ReadRows(At(row, panel), ahead);
  }
  template <class Sums>
  HWY_INLINE void Take(const Sums& sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    const D d;
    float* to = At(row, panel);
    KINEOGRAPH_UNROLL for (std::size_t i = begin; i < end; ++i) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
      float* at = to + i * kPanel + v * kLanes;
      hn::Store(hn::MulAdd(hn::Set(d, gate[row + i]), sums(i, v), hn::Load(d, at)), d, at);
    }
  }
};

/// Stores x + gate * sums as bf16 pairs, proj_out's operand, for the last block alone: x is dead afterwards.
struct ToLastPairs {
  using Side = ReadAhead;
  static constexpr bool kBuffered = false, kInPlace = false;
  const float* rows;
  std::size_t panel_floats;
  const float* gate;  ///< or null for 1
  std::uint32_t* pairs;
  HWY_INLINE void Before(std::size_t row, std::size_t, std::size_t panel, ReadAhead& ahead) const {
    ReadRows(rows + panel * panel_floats + row * kPanel, ahead);
  }
  template <class Sums>
  HWY_INLINE void Take(const Sums& sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    const D d;
    const float* from = rows + panel * panel_floats + row * kPanel;
    std::uint32_t* to = pairs + (panel * panel_floats + row * kPanel) / 2;
    const auto at = [&](std::size_t i, std::size_t v) KINEOGRAPH_ATTR {
      const Vec x = hn::Load(d, from + i * kPanel + v * kLanes);
      return gate == nullptr ? hn::Add(sums(i, v), x) : hn::MulAdd(hn::Set(d, gate[row + i]), sums(i, v), x);
    };
    KINEOGRAPH_UNROLL for (std::size_t i = begin; i < end; i += 2) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v)
        hn::Store(Bf16Pair(at(i, v), at(i + 1, v)), DU(), to + i / 2 * kPanel + v * kLanes);
  }
};

/// The operands of attention in bf16 pairs. Rows below `paired`, which is even, are stored as pairs of channels
/// [panel][row / 2][2N]; the others, which are values, as f32 [panel][row - paired][2N] or, where the two vectors of a
/// panel are neighbouring tokens, in PairValues' layout.
struct ToPairs {
  using Side = ReadAhead;
  static constexpr bool kBuffered = false, kInPlace = false;
  float* pairs;
  std::size_t paired;
  float* values;
  std::size_t value_rows;
  bool neighbours;
  HWY_INLINE void Before(std::size_t, std::size_t, std::size_t, ReadAhead&) const {}
  template <class Sums>
  HWY_INLINE void Take(const Sums& sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    const D d;
    KINEOGRAPH_UNROLL for (std::size_t i = begin; i < end; i += 2) {
      if (row + i < paired) {
        float* to = pairs + (panel * paired + row + i) / 2 * kPanel;
        KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v)
            hn::Store(PairOf(sums(i, v), sums(i + 1, v)), d, to + v * kLanes);
      } else if (neighbours) {
        float* to = values + (panel / 2 * value_rows + row + i - paired) * kPanel + panel % 2 * kLanes;
        KINEOGRAPH_UNROLL for (std::size_t j = 0; j < 2; ++j)
            hn::Store(PairOf(sums(i + j, 0), sums(i + j, 1)), d, to + j * kPanel);
      } else {
        float* to = values + (panel * value_rows + row + i - paired) * kPanel;
        KINEOGRAPH_UNROLL for (std::size_t j = 0; j < 2; ++j) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v)
            hn::Store(sums(i + j, v), d, to + j * kPanel + v * kLanes);
      }
    }
  }
};

/// Activated columns as operands [panel][hidden]. A gated block of a packed layer is half values, half their gates.
/// `meanwhile->Step()` is called before every kernel, unless null.
template <Arithmetic kArithmetic, Activation kActivation, class Meanwhile>
struct ToHidden {
  using Side = ReadAhead;
  static constexpr bool kBuffered = kActivation != Activation::geglu, kInPlace = false;  // published models have geglu
  static constexpr bool kGated = is_gated(kActivation);
  float* block;
  std::uint32_t* hidden;
  std::size_t panel_words;
  Meanwhile* meanwhile;

  HWY_INLINE void Before(std::size_t, std::size_t, std::size_t, ReadAhead&) const {
    if (meanwhile != nullptr) meanwhile->Step();
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

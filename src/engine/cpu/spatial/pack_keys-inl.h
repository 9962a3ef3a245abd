// Keys and values of a tile's tokens, from a product's rows to where queries find them (pack/key_values.h).
#if defined(KINEOGRAPH_CPU_SPATIAL_PACK_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_SPATIAL_PACK_KEYS_INL_H_
#undef KINEOGRAPH_CPU_SPATIAL_PACK_KEYS_INL_H_
#else
#define KINEOGRAPH_CPU_SPATIAL_PACK_KEYS_INL_H_
#endif

#include "engine/cpu/kernels/target-inl.h"
#include "engine/cpu/pack/key_values.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Tokens [token, token + valid) of a row, valid at most N: one head's keys, then its values, [2 head_dim rows][2N] of
/// which a vector is read. token is a multiple of N.
template <Arithmetic kArithmetic>
void PackKeys(const KeyValueLayout& layout, const float* rows, std::size_t token, std::size_t valid,
              std::uint32_t* head) {
  const D d;
  const std::size_t dim = layout.head_dim();
  HWY_ALIGN std::uint32_t words[kLanes];
  // A vector's tokens may belong to two pieces. A piece has an even number of keys, so that pairs are never parted.
  for (std::size_t lane = 0; lane < valid;) {
    const std::size_t piece = (token + lane) / layout.piece_keys(), first = (token + lane) % layout.piece_keys();
    const std::size_t end = std::min(valid, lane + layout.piece_keys() - first);
    const LinearView keys = layout.keys_view(head, piece), values = layout.values_view(head, piece);
    auto* const key_words = const_cast<std::uint32_t*>(keys.weights);
    auto* const value_words = const_cast<std::uint32_t*>(values.weights);

    for (std::size_t from = lane; from < end;) {
      const PackedLinear::Block& block = KeyValueLayout::block_of(keys, first + from - lane);
      const std::size_t row = first + from - lane - block.row, count = std::min(end - from, block.rows - row);
      for (std::size_t w = 0; w < keys.words; ++w) {
        if constexpr (is_paired(kArithmetic)) {
          const Vec odd = 2 * w + 1 < dim ? hn::Load(d, rows + (2 * w + 1) * kPanel) : hn::Zero(d);
          hn::Store(Bf16Pair(hn::Load(d, rows + 2 * w * kPanel), odd), DU(), words);
        } else {
          hn::Store(w < dim ? hn::Load(d, rows + w * kPanel) : hn::Zero(d), d, reinterpret_cast<float*>(words));
        }
        for (std::size_t i = 0; i < count; ++i)
          key_words[block.offset + layout.within(block, row + i, w)] = words[from + i];
      }
      from += count;
    }

    for (std::size_t e = 0; e < dim; ++e) {
      const PackedLinear::Block& block = KeyValueLayout::block_of(values, e);
      const Vec value = hn::Load(d, rows + (dim + e) * kPanel);
      std::size_t unit = 1;
#if KINEOGRAPH_NATIVE_BF16
      if constexpr (is_paired(kArithmetic)) {
        unit = 2;
        const auto there = hn::FirstN(d, valid);  // a token's partner may be none
        const Vec known = hn::IfThenElseZero(there, value);
        hn::Store(hn::BitCast(DU(), NeighboursOf(known, known)), DU(), words);
      } else
#endif
        hn::Store(value, d, reinterpret_cast<float*>(words));
      for (std::size_t i = lane; i < end; i += unit)
        value_words[block.offset + layout.within(block, e - block.row, (first + i - lane) / unit)] = words[i / unit];
    }
    lane = end;
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

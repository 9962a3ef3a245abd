#include "engine/cpu/pack/key_values.h"

#include <bit>

#include "base/half.h"
#include "engine/cpu/pack/pack.h"

namespace kineograph::engine::cpu {
namespace {

/// Keys of a piece: its scores for a panel, its keys and its values share the L1 cache, and blocks of rows are whole.
std::size_t choose_piece(Arithmetic arithmetic, std::size_t max_rows) {
  if (arithmetic == Arithmetic::bf16_amx) return 4 * kAmxBlockRows;
  return max_rows * (max_rows >= 14 ? 8 : 16);
}

}  // namespace

KeyValueLayout::KeyValueLayout(Arithmetic arithmetic, std::size_t max_rows, std::size_t head_dim, std::size_t keys)
    : arithmetic_(arithmetic), head_dim_(head_dim), keys_(keys), piece_keys_(choose_piece(arithmetic, max_rows)) {
  pieces_ = (keys + piece_keys_ - 1) / piece_keys_;
  whole_ = shape(std::min(keys, piece_keys_), max_rows);
  last_ = shape(keys - (pieces_ - 1) * piece_keys_, max_rows);
  zeros_.resize(std::max(piece_keys_, pad_channels(head_dim)));
}

KeyValueLayout::Shape KeyValueLayout::shape(std::size_t keys, std::size_t max_rows) const {
  const PackOptions options{arithmetic_, max_rows};
  const auto product = [&](std::size_t rows, std::size_t cols) {
    Product made;
    made.words = is_paired(arithmetic_) ? pad_channels(cols) / 2 : pad_channels(cols);
    made.blocks = cut_blocks(pad_channels(rows), made.words, 2, options);
    made.size = block_words(pad_channels(rows), made.words, arithmetic_, false);
    return made;
  };
  Shape made{product(keys, head_dim_), product(head_dim_, keys)};
  made.size = made.keys.size + made.values.size;
  return made;
}

LinearView KeyValueLayout::view(const Product& product, const std::uint32_t* weights) const {
  LinearView made;
  made.blocks = product.blocks;
  made.words = product.words;
  made.weights = weights;
  made.size = product.size;
  made.bias = zeros_.data();
  return made;
}

void KeyValueLayout::pack(const float* keys, const float* values, std::size_t stride, std::uint32_t* head) const {
  std::fill_n(head, size(), 0u);
  const auto word_of = [&](float even, float odd) {
    return to_bf16(even).bits | static_cast<std::uint32_t>(to_bf16(odd).bits) << 16;
  };
  for (std::size_t piece = 0; piece < pieces_; ++piece) {
    const std::size_t first = piece * piece_keys_, count = keys_of(piece);
    const LinearView k = keys_view(head, piece), v = values_view(head, piece);
    auto* const k_words = const_cast<std::uint32_t*>(k.weights);
    auto* const v_words = const_cast<std::uint32_t*>(v.weights);
    const auto key = [&](std::size_t t, std::size_t e) {
      return t < count && e < head_dim_ ? keys[(first + t) * stride + e] : 0.0f;
    };
    const auto value = [&](std::size_t t, std::size_t e) {
      return t < count && e < head_dim_ ? values[(first + t) * stride + e] : 0.0f;
    };
    for (std::size_t t = 0; t < count; ++t)
      for (std::size_t w = 0; w < k.words; ++w)
        k_words[at(k, t, w)] = is_paired(arithmetic_) ? word_of(key(t, 2 * w), key(t, 2 * w + 1))
                                                      : std::bit_cast<std::uint32_t>(key(t, w));
    for (std::size_t e = 0; e < head_dim_; ++e)
      for (std::size_t w = 0; w < v.words; ++w)
        v_words[at(v, e, w)] = is_paired(arithmetic_) ? word_of(value(2 * w, e), value(2 * w + 1, e))
                                                      : std::bit_cast<std::uint32_t>(value(w, e));
  }
}

}  // namespace kineograph::engine::cpu

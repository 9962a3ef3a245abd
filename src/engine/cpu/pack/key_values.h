// Keys and values that many queries meet, in the order the micro-kernels read them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/cpu/pack/layout.h"

namespace kineograph::engine::cpu {

/// The packed keys and values of one head. They are cut into pieces of a few keys; a piece is the weights of
/// two products: keys as rows over channels, then channels as rows over keys. In bf16 a word is a pair of neighbouring
/// channels of a key, or of neighbouring keys of a channel.
class KeyValueLayout {
 public:
  KeyValueLayout() = default;
  /// `max_rows` is the instruction set's.
  KeyValueLayout(Arithmetic arithmetic, std::size_t max_rows, std::size_t head_dim, std::size_t keys);

  std::size_t keys() const noexcept { return keys_; }
  std::size_t head_dim() const noexcept { return head_dim_; }
  std::size_t pieces() const noexcept { return pieces_; }
  /// Keys of every piece but the last.
  std::size_t piece_keys() const noexcept { return piece_keys_; }
  std::size_t keys_of(std::size_t piece) const noexcept {
    return piece + 1 == pieces_ ? keys_ - piece * piece_keys_ : piece_keys_;
  }
  /// Words of a head.
  std::size_t size() const noexcept { return pieces_ == 0 ? 0 : (pieces_ - 1) * whole_.size + last_.size; }

  /// The two products of a piece of the head at `head`: scores of its keys, and what they weigh of its values.
  LinearView keys_view(const std::uint32_t* head, std::size_t piece) const {
    return view(shape_of(piece).keys, head + piece * whole_.size);
  }
  LinearView values_view(const std::uint32_t* head, std::size_t piece) const {
    return view(shape_of(piece).values, head + piece * whole_.size + shape_of(piece).keys.size);
  }

  /// Offset of word `word` of row `row` in a view's weights.
  std::size_t at(const LinearView& view, std::size_t row, std::size_t word) const noexcept {
    const PackedLinear::Block& block = block_of(view, row);
    return block.offset + within(block, row - block.row, word);
  }
  /// The block of a row.
  static const PackedLinear::Block& block_of(const LinearView& view, std::size_t row) noexcept {
    // Blocks are of nearly equal height, so that the guess is off by one at most.
    std::size_t b = std::min<std::size_t>(row / view.blocks[0].rows, view.blocks.size() - 1);
    while (row >= view.blocks[b].row + view.blocks[b].rows) ++b;
    return view.blocks[b];
  }
  /// Offset of a word of a block's row in the block.
  std::size_t within(const PackedLinear::Block& block, std::size_t row, std::size_t word) const noexcept {
    if (arithmetic_ != Arithmetic::bf16_amx) return word * block.rows + row;
    return (word / kAmxWords * round_up(block.rows, kAmxRows) + row) * kAmxWords + word % kAmxWords;
  }

  /// Packs one head: element e of key t is keys[t * stride + e], likewise values. Padding is written too.
  void pack(const float* keys, const float* values, std::size_t stride, std::uint32_t* head) const;

  bool operator==(const KeyValueLayout& other) const noexcept {
    return arithmetic_ == other.arithmetic_ && head_dim_ == other.head_dim_ && keys_ == other.keys_ &&
           piece_keys_ == other.piece_keys_;
  }

 private:
  struct Product {
    std::vector<PackedLinear::Block> blocks;
    std::size_t words = 0, size = 0;
  };
  struct Shape {
    Product keys, values;
    std::size_t size = 0;
  };
  Shape shape(std::size_t keys, std::size_t max_rows) const;
  const Shape& shape_of(std::size_t piece) const noexcept { return piece + 1 == pieces_ ? last_ : whole_; }
  LinearView view(const Product& product, const std::uint32_t* weights) const;

  Arithmetic arithmetic_ = Arithmetic::f32;
  std::size_t head_dim_ = 0, keys_ = 0, piece_keys_ = 0, pieces_ = 0;
  Shape whole_, last_;
  std::vector<float> zeros_;  ///< biases of every row
};

/// Floats that attention needs beside its operands, for queries of `panels` panels of `panel` lanes: a piece's scores,
/// biases and powers, and a running softmax a panel.
inline std::size_t online_attention_floats(const KeyValueLayout& layout, std::size_t panel, std::size_t panels) {
  return (3 * round_up(layout.piece_keys(), 2) + panels * (pad_channels(layout.head_dim()) + 3)) * panel;
}

/// The arithmetic of attention over many keys in a model whose layers multiply by `arithmetic`.
inline constexpr Arithmetic attention_arithmetic(Arithmetic arithmetic) {
  return is_paired(arithmetic) ? arithmetic : Arithmetic::f32;
}

}  // namespace kineograph::engine::cpu

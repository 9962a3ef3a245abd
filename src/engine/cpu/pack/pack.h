// Weights in the order the micro-kernels read them.
#pragma once

#include "engine/cpu/pack/layout.h"
#include "engine/engine.h"

namespace kineograph::engine::cpu {

/// Rows of a weight that become a PackedLinear, or a part of one.
struct RowRange {
  TensorView weight;      ///< (rows, columns) of any floating dtype
  TensorView bias;        ///< or absent
  std::size_t first = 0;  ///< row
  std::size_t count = 0;
};

struct PackOptions {
  Arithmetic arithmetic = Arithmetic::f32;
  std::size_t max_rows = 0;  ///< of the micro-kernel
  Slab* slab = nullptr;      ///< where weights go, as far as they fit
};

/// Words of blocks of `rows`.
std::size_t block_words(std::size_t rows, std::size_t words, Arithmetic arithmetic, bool biased);

/// Cuts `rows` (a multiple of `unit`) into blocks of nearly equal height, or of the matrix unit's height and a rest.
std::vector<PackedLinear::Block> cut_blocks(std::size_t rows, std::size_t words, std::size_t unit,
                                            const PackOptions& options, bool biased = false);

/// Bytes that a model's weights take packed; a little more where heads are of odd width.
std::size_t packed_bytes(const Weights& weights, Arithmetic arithmetic);

/// Stacks the ranges' rows over columns [first_col, first_col + cols).
PackedLinear pack_rows(const std::vector<RowRange>& ranges, std::size_t first_col, std::size_t cols,
                       const PackOptions& options);

/// Two ranges of equal height interleaved: every block holds rows of the first, then the same rows of the second.
PackedLinear pack_gated(const RowRange& values, const RowRange& gates, std::size_t cols, const PackOptions& options);

/// A whole model. `max_rows` is the instruction set's.
PackedModel pack_model(const TransformerTemporalConfig& config, const Weights& weights, Arithmetic arithmetic,
                       std::size_t max_rows);

/// The temporal blocks of TransformerSpatioTemporalModel as the blocks of a model, with its norm and projections.
PackedModel pack_temporal_blocks(const TransformerTemporalConfig& config, const Weights& weights, Arithmetic arithmetic,
                                 std::size_t max_rows);

/// Hidden columns that go through the feed-forward together: few enough that a tile's stay in the L2 cache, and equal
/// chunks.
std::size_t choose_hidden_chunk(std::size_t hidden);

/// Any floating tensor as f32.
Buffer<float> to_floats(const TensorView& view);

}  // namespace kineograph::engine::cpu

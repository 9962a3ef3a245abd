// Weights for training: each of them as it is, and transposed.
#pragma once

#include "engine/cpu/pack/pack.h"

namespace kineograph::engine::cpu {

/// W for y = W x + b, and its transpose for d_x = W^T d_y.
struct TrainedLinear {
  PackedLinear forward, transposed;
};

/// A chunk of the feed-forward's hidden columns.
struct TrainedChunk {
  std::size_t first = 0, count = 0;
  PackedLinear in;  ///< values' rows, then (gated) gates' rows
  PackedLinear values_transposed, gates_transposed;
  TrainedLinear out;
};

struct TrainedBlock {
  TrainedLinear q[2], k[2], v[2], out[2];
  std::vector<TrainedChunk> chunks;
};

struct TrainedModel {
  bool gated = false;
  std::size_t hidden = 0, chunk = 0;  ///< hidden columns, and those of the widest chunk
  TrainedLinear proj_in, proj_out, out;
  std::vector<TrainedBlock> blocks;
};

TrainedModel pack_trained(const TransformerTemporalConfig& config, const Weights& weights, Arithmetic arithmetic,
                          std::size_t max_rows);

/// The products of training: of bf16 pairs where the forward's are, else of f32, to which bf16 weights are widened.
inline Arithmetic trained_arithmetic(const PackedModel& model) {
  return is_paired(model.arithmetic) ? model.arithmetic : Arithmetic::f32;
}

}  // namespace kineograph::engine::cpu

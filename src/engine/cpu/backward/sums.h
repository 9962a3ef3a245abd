// Sums that all tiles add to, beside the gradients of linear layers.
#pragma once

#include <vector>

#include "engine/cpu/call/call.h"

namespace kineograph::engine::cpu {

/// Sums over tokens of a norm's output gradient d_n: `along` of d_n h with h the normalised input, `plain` of d_n.
struct NormSums {
  std::vector<double> along, plain;
};

/// Sums that tiles add to in turn, beside the gradients of linear layers. Within a tile each sum belongs to one thread.
struct BackwardSums {
  std::vector<NormSums> norms;                ///< [(layer * 3 + norm) * videos + video], I values each
  std::vector<std::vector<double>> gates;     ///< [(layer * 2 + (0: attn1, 1: ff)) * videos + video], I values each
  NormSums group_norm;                        ///< [set * C + c]
  NormSums norm_out;                          ///< discrete input
  std::vector<double> latent, height, width;  ///< gradients of the embeddings
  std::vector<double> encoder;                ///< of a conditioning per video, (B, S, D)
};

/// Zeros for the sums that `gradients` need; the others are empty.
void clear(BackwardSums& sums, const Call& call, const Gradients& gradients);

}  // namespace kineograph::engine::cpu

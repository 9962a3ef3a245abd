// The gradients that need all tiles: of the input, of norms, conditioning and embeddings.
#pragma once

#include "engine/cpu/backward/backward.h"

namespace kineograph::engine::cpu {

/// The input's gradient from that of GroupNorm's output, which is in its memory, and the residual's d_output.
void finish_input(const BackwardCall& backward, int threads);

/// Writes the gradients that tiles have summed in double.
void finish_parameters(const BackwardCall& backward, const Weights& weights);

}  // namespace kineograph::engine::cpu

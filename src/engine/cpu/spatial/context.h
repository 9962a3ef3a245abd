// Keys and values of text and image prompts, and biases of scores; made before any tile is walked.
#pragma once

#include <vector>

#include "engine/cpu/call/target.h"
#include "engine/cpu/spatial/rows.h"
#include "engine/engine.h"

namespace kineograph::engine::cpu {

/// The layers that make a context's keys and values for one attention.
struct ContextLayers {
  const std::vector<PackedLinear>* kv = nullptr;  ///< per head
  std::size_t slot = 0;                           ///< layer * 2 + which
};

/// Tokens (E, S, D), of which row n reads n * E / rows.
struct ContextRequest {
  TensorView tokens;
  std::size_t rows = 0;    ///< rows of hidden_states
  std::size_t step = 1;    ///< only every step-th has a place in the context: the first frames of videos
  std::size_t layers = 0;  ///< of the model
  std::vector<ContextLayers> through;
};

/// Fills `context` in place, whatever it held. The order of every sum is fixed.
void project_tokens(const ContextRequest& request, const PackedModel& model, const Target& target, int threads,
                    Context& context);

/// Biases (N, heads, Q, K) of attn1 or attn2, or none.
ScoreBiases read_biases(const TensorView& view);

}  // namespace kineograph::engine::cpu

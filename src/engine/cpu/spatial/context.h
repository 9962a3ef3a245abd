// What rows attend to besides their pixels, made ready before any tile is walked.
#pragma once

#include <vector>

#include "engine/cpu/call/target.h"
#include "engine/cpu/spatial/rows.h"
#include "engine/engine.h"

namespace kineograph::engine::cpu {

/// Which layers of a head's keys, then values, a context goes through: null for attentions that do not read it.
struct ContextLayers {
  const std::vector<PackedLinear>* kv = nullptr;  ///< per head
  std::size_t slot = 0;                           ///< layer * 2 + which
};

/// Keys and values of `tokens` (E, S, D), of which row n of `rows` reads n * stride + n's share: row n * E / rows.
/// `step`: rows between those of two neighbours, so that videos read their first frame's.
struct ContextRequest {
  TensorView tokens;
  std::size_t rows = 0;    ///< rows of hidden_states
  std::size_t step = 1;    ///< every step-th of them has a place in the context
  std::size_t layers = 0;  ///< of the model
  std::vector<ContextLayers> through;
};

/// Fills `context` in place, whatever it held. The order of every sum is fixed.
void project_tokens(const ContextRequest& request, const PackedModel& model, const Target& target, int threads,
                    Context& context);

/// Biases (N, heads, Q, K) of attn1 or attn2, or none.
ScoreBiases read_biases(const TensorView& view);

}  // namespace kineograph::engine::cpu

// The fused engine's plan of Transformer2DModel and TransformerSpatioTemporalModel.
#pragma once

#include <memory>

#include "engine/cpu/call/target.h"
#include "engine/cpu/pack/host.h"
#include "engine/engine.h"

namespace kineograph::engine::cpu {

/// False for what this engine does not run: positional embeddings over pixels.
bool runs_rows(const Weights& weights);

std::unique_ptr<const Plan> prepare_rows(const ModelConfig& config, const Weights& weights, const Target& target,
                                         DType compute_dtype, const Lent& lent);

}  // namespace kineograph::engine::cpu

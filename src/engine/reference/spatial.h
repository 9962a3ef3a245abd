// Transformer2DModel and TransformerSpatioTemporalModel.
#pragma once

#include <memory>

#include "engine/engine.h"

namespace kineograph::engine::reference {

/// A plan for `weights`, with temporal blocks or without.
std::unique_ptr<const Plan> prepare_spatial(const TransformerConfig& config, const Weights& weights);

}  // namespace kineograph::engine::reference

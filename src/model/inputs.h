// The arguments of a call, checked before any work starts.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"
#include "kineograph/model.h"

namespace kineograph::model {

/// The checked arguments of a forward, as an engine gets them. `names` are the model's attentions, where processors are
/// given; `dtype` is that of its weights. Throws ArgumentError.
engine::Inputs read_inputs(const TransformerTemporalConfig& config, DType dtype, const std::vector<std::string>& names,
                           const TensorView& hidden_states, const ForwardOptions& options);

engine::Inputs read_inputs(const Transformer2DConfig& config, const TensorView& hidden_states,
                           const Transformer2DForwardOptions& options);
engine::Inputs read_inputs(const TransformerSpatioTemporalConfig& config, const TensorView& hidden_states,
                           const TransformerSpatioTemporalForwardOptions& options);

}  // namespace kineograph::model

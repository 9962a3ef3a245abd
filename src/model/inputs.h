// The arguments of a call, checked before any work starts.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"
#include "kineograph/model.h"

namespace kineograph::model {

/// What an engine gets. `names` are the model's attentions, where processors are given. Throws ArgumentError.
engine::Inputs read_inputs(const TransformerTemporalConfig& config, const std::vector<std::string>& names,
                           const TensorView& hidden_states, const ForwardOptions& options);

/// "f32 [2, 320, 64, 64]"
std::string dtype_and_shape(const TensorView& view);

/// What images may be made of: f32, f16 and bf16.
bool is_image_dtype(DType dtype);

}  // namespace kineograph::model

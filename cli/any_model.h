// A model of any of the three classes.
#pragma once

#include <filesystem>
#include <string>
#include <variant>

#include "kineograph/kineograph.h"

namespace kineograph::cli {

using AnyModel = std::variant<TransformerTemporalModel, Transformer2DModel, TransformerSpatioTemporalModel>;

/// A folder of a single model, whose config.json says its class; or one module of any known checkpoint, temporal or
/// spatial, by its path in diffusers.
AnyModel open_any(const std::filesystem::path& path, const std::string& module, const ModelOptions& options);

/// A model with seeded weights.
AnyModel seeded(const ModelConfig& config, std::uint64_t seed, const ModelOptions& options, DType dtype);

/// The part that the classes have in common.
const ModelMixin& mixin(const AnyModel& model);
/// The configuration's shared part.
const TransformerConfig& config_of(const AnyModel& model);

/// Arguments beyond TransformerTemporalModel's that the others take.
struct SpatialArguments {
  TensorView attention_mask = {}, encoder_attention_mask = {}, image_only_indicator = {};
};

/// A forward; of `options`, those that the model's class has, and a warning for those that it has not.
Tensor forward(const AnyModel& model, const TensorView& hidden_states, const ForwardOptions& options,
               const SpatialArguments& more = {});

}  // namespace kineograph::cli

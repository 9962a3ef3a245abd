// A model of any of the three classes.
#pragma once

#include <string>
#include <variant>

#include "kineograph/kineograph.h"

namespace kineograph::cli {

using AnyModel = std::variant<TransformerTemporalModel, Transformer2DModel, TransformerSpatioTemporalModel>;

/// The place of a model on disk.
struct ModelPlace {
  std::string path;    ///< a folder of a single model, whose config.json says its class, or any known checkpoint
  std::string module;  ///< a checkpoint's module, temporal or spatial, by its path in diffusers; empty for the only one
  std::string select;  ///< the path of one set of weights (OpenOptions::select)
};

/// The model at a place. Throws IoError where nothing is there, ArgumentError for a module that is not in the
/// checkpoint, and what load and from_pretrained throw.
AnyModel open_any(const ModelPlace& place, const ModelOptions& options);

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
/// The same into `sample`.
void forward_into(const AnyModel& model, const TensorView& hidden_states, const MutableTensorView& sample,
                  const ForwardOptions& options);
std::size_t workspace_bytes(const AnyModel& model, const TensorView& hidden_states, const ForwardOptions& options);

}  // namespace kineograph::cli

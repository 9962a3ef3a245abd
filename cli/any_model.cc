#include "any_model.h"

#include <algorithm>

namespace kineograph::cli {
namespace {

void warn_if(bool without_effect, const ForwardOptions& options, const std::string& text) {
  if (without_effect && options.on_warning) options.on_warning(text);
}

Tensor run(const TransformerTemporalModel& model, const TensorView& hidden_states, const ForwardOptions& options,
           const SpatialArguments& more) {
  warn_if(more.attention_mask || more.encoder_attention_mask || more.image_only_indicator, options,
          "masks and image_only_indicator have no effect: TransformerTemporalModel takes none");
  return model.forward(hidden_states, options).sample;
}

Tensor run(const Transformer2DModel& model, const TensorView& hidden_states, const ForwardOptions& options,
           const SpatialArguments& more) {
  warn_if(static_cast<bool>(more.image_only_indicator), options,
          "image_only_indicator has no effect: Transformer2DModel takes none");
  Transformer2DForwardOptions own;
  own.encoder_hidden_states = options.encoder_hidden_states;
  own.timestep = options.timestep;
  own.class_labels = options.class_labels;
  own.attention_mask = more.attention_mask;
  own.encoder_attention_mask = more.encoder_attention_mask;
  own.num_threads = options.num_threads;
  own.on_warning = options.on_warning;
  return model.forward(hidden_states, own).sample;
}

Tensor run(const TransformerSpatioTemporalModel& model, const TensorView& hidden_states, const ForwardOptions& options,
           const SpatialArguments& more) {
  warn_if(more.attention_mask || more.encoder_attention_mask || options.timestep || options.class_labels, options,
          "masks, timestep and class_labels have no effect: TransformerSpatioTemporalModel takes none");
  TransformerSpatioTemporalForwardOptions own;
  own.num_frames = options.num_frames;
  own.encoder_hidden_states = options.encoder_hidden_states;
  own.image_only_indicator = more.image_only_indicator;
  own.num_threads = options.num_threads;
  own.on_warning = options.on_warning;
  return model.forward(hidden_states, own).sample;
}

/// A module of a checkpoint.
AnyModel open_module(const Checkpoint& checkpoint, const std::string& module, const ModelOptions& options) {
  const std::vector<SpatialModule> spatial = spatial_modules(checkpoint);
  const bool named = std::any_of(spatial.begin(), spatial.end(), [&](const auto& one) { return one.name == module; });
  const bool only = module.empty() && !spatial.empty() && temporal_modules(checkpoint).empty();
  if (!named && !only) return load(checkpoint, module, options);
  return std::visit([](auto&& model) -> AnyModel { return model; }, load_spatial(checkpoint, module, options));
}

template <class Visit>
auto by_class(const ModelConfig& config, Visit&& visit) -> AnyModel {
  if (std::holds_alternative<Transformer2DConfig>(config))
    return visit.template operator()<Transformer2DModel, Transformer2DConfig>();
  if (std::holds_alternative<TransformerSpatioTemporalConfig>(config))
    return visit.template operator()<TransformerSpatioTemporalModel, TransformerSpatioTemporalConfig>();
  return visit.template operator()<TransformerTemporalModel, TransformerTemporalConfig>();
}

}  // namespace

AnyModel open_any(const std::filesystem::path& path, const std::string& module, const ModelOptions& options) {
  if (!module.empty() || std::filesystem::is_regular_file(path))
    return open_module(Checkpoint::open(path, {options.variant}), module, options);
  const ModelConfig config = read_config(path / "config.json", options.unknown_keys, options.on_warning);
  return by_class(config, [&]<class Model, class>() -> AnyModel { return Model::from_pretrained(path, options); });
}

AnyModel seeded(const ModelConfig& config, std::uint64_t seed, const ModelOptions& options, DType dtype) {
  return by_class(config, [&]<class Model, class Config>() -> AnyModel {
    return Model::from_config(std::get<Config>(config), seed, options, dtype);
  });
}

const ModelMixin& mixin(const AnyModel& model) {
  return *std::visit([](const auto& one) -> const ModelMixin* { return &one; }, model);
}

const TransformerConfig& config_of(const AnyModel& model) {
  return *std::visit([](const auto& one) -> const TransformerConfig* { return &one.config(); }, model);
}

Tensor forward(const AnyModel& model, const TensorView& hidden_states, const ForwardOptions& options,
               const SpatialArguments& more) {
  return std::visit([&](const auto& one) { return run(one, hidden_states, options, more); }, model);
}

}  // namespace kineograph::cli

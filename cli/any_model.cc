#include "any_model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/text.h"
#include "clips.h"

namespace kineograph::cli {
namespace {

/// Of each argument that is given to a class that takes none.
void warn_of(std::initializer_list<std::pair<bool, const char*>> given, const char* class_name,
             const ForwardOptions& options) {
  for (const auto& [is_given, has] : given)
    if (is_given && options.on_warning)
      options.on_warning(std::string(has) + " no effect: " + class_name + " takes none");
}

bool has_masks(const SpatialArguments& more) { return more.attention_mask || more.encoder_attention_mask; }

/// The arguments of a call as the model's own class has them.
ForwardOptions own_options(const TransformerTemporalModel&, const ForwardOptions& options,
                           const SpatialArguments& more) {
  warn_of({{has_masks(more), "masks have"}, {bool(more.image_only_indicator), "image_only_indicator has"}},
          "TransformerTemporalModel", options);
  return options;
}

Transformer2DForwardOptions own_options(const Transformer2DModel&, const ForwardOptions& options,
                                        const SpatialArguments& more) {
  warn_of(
      {{bool(more.image_only_indicator), "image_only_indicator has"}, {options.context.has_value(), "windows have"}},
      "Transformer2DModel", options);
  Transformer2DForwardOptions own;
  own.encoder_hidden_states = options.encoder_hidden_states;
  own.timestep = options.timestep;
  own.class_labels = options.class_labels;
  own.attention_mask = more.attention_mask;
  own.encoder_attention_mask = more.encoder_attention_mask;
  own.num_threads = options.num_threads;
  own.on_warning = options.on_warning;
  return own;
}

TransformerSpatioTemporalForwardOptions own_options(const TransformerSpatioTemporalModel&,
                                                    const ForwardOptions& options, const SpatialArguments& more) {
  warn_of({{has_masks(more), "masks have"},
           {bool(options.timestep), "timestep has"},
           {bool(options.class_labels), "class_labels have"},
           {options.context.has_value(), "windows have"}},
          "TransformerSpatioTemporalModel", options);
  TransformerSpatioTemporalForwardOptions own;
  // Unless --num-frames says something else than its default, the indicator does.
  own.num_frames = more.image_only_indicator && options.num_frames == 1 ? 0 : options.num_frames;
  own.encoder_hidden_states = options.encoder_hidden_states;
  own.image_only_indicator = more.image_only_indicator;
  own.num_threads = options.num_threads;
  own.on_warning = options.on_warning;
  return own;
}

template <class Module>
std::string names_of(const std::vector<Module>& modules) {
  std::vector<std::string> names;
  for (const Module& module : modules) names.push_back(module.name);
  return first_of(names, " ", 40);
}

/// A module of a checkpoint, which may have both kinds.
AnyModel open_module(const Checkpoint& checkpoint, const std::string& module, const ModelOptions& options) {
  const std::vector<TemporalModule> temporal = temporal_modules(checkpoint);
  const std::vector<SpatialModule> spatial = spatial_modules(checkpoint);
  const auto is_named = [&](const CheckpointModule& one) { return one.name == module; };
  const bool is_spatial = std::any_of(spatial.begin(), spatial.end(), is_named);
  if (!temporal.empty() && !spatial.empty() && !is_spatial && std::none_of(temporal.begin(), temporal.end(), is_named))
    throw ArgumentError("module", "one of" + names_of(temporal) + names_of(spatial), module.empty() ? "none" : module);
  if (!is_spatial && (spatial.empty() || !temporal.empty())) return load(checkpoint, module, options);
  return std::visit([](auto&& model) -> AnyModel { return std::forward<decltype(model)>(model); },
                    load_spatial(checkpoint, module, options));
}

/// The configuration of a model's folder; nothing for another class's, such as a UNet's, which may hold modules.
std::optional<ModelConfig> own_config(const std::filesystem::path& folder, const ModelOptions& options) {
  try {
    return read_config(folder / "config.json", options.unknown_keys, options.on_warning);
  } catch (const ConfigError& error) {
    if (!error.where().ends_with("_class_name")) throw;
    return std::nullopt;
  }
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

AnyModel open_any(const ModelPlace& place, const ModelOptions& options) {
  check_model_path(place.path);
  if (!place.module.empty() || !place.select.empty() || std::filesystem::is_regular_file(place.path))
    return open_module(Checkpoint::open(place.path, {options.variant, place.select}), place.module, options);
  const std::optional<ModelConfig> config = own_config(place.path, options);
  if (!config) return open_module(Checkpoint::open(place.path, {options.variant, {}}), {}, options);
  return by_class(*config,
                  [&]<class Model, class>() -> AnyModel { return Model::from_pretrained(place.path, options); });
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
  return std::visit([&](const auto& one) { return one.forward(hidden_states, own_options(one, options, more)).sample; },
                    model);
}

void forward_into(const AnyModel& model, const TensorView& hidden_states, const MutableTensorView& sample,
                  const ForwardOptions& options) {
  std::visit([&](const auto& one) { one.forward(hidden_states, sample, own_options(one, options, {})); }, model);
}

std::size_t workspace_bytes(const AnyModel& model, const TensorView& hidden_states, const ForwardOptions& options) {
  return std::visit([&](const auto& one) { return one.workspace_bytes(hidden_states, own_options(one, options, {})); },
                    model);
}

}  // namespace kineograph::cli

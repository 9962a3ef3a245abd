// Temporal modules out of named tensors: which configuration their shapes and a config.json imply.
#include "kineograph/modules.h"

#include <algorithm>
#include <map>
#include <optional>

#include "model/layouts.h"
#include "model/modules.h"
#include "model/parameters.h"
#include "model/unet_config.h"

namespace kineograph {
namespace {

using model::Place;
using model::UNetConfig;

// What published models have where no shape and no file says otherwise.
constexpr std::int64_t kMotionHeads = 8, kHeadDim = 64, kInputHeads = 8, kGroups = 32;
// AnimateLCM's motion modules come without positions; its source has 64.
constexpr std::int64_t kLcmPositions = 64;
// MotionAdapter's motion_max_seq_length where its config.json does not say.
constexpr std::int64_t kAdapterPositions = 32;
// As TransformerTemporalConfig::validate has it: beyond, tensors are no module's.
constexpr std::int64_t kMaxWidth = 1 << 20;

/// A module's tensors on the way to a TemporalModule.
struct Found {
  Layout layout;
  std::map<std::string, TensorView> tensors;
  std::int64_t positions = 0;
  std::map<std::string, std::string> sources = {};

  TensorView find(const std::string& name) const {
    const auto found = tensors.find(name);
    return found == tensors.end() ? TensorView() : found->second;
  }
};

/// Conv1d weights (out, in, 1) are Linear ones (out, in).
TensorView as_linear(const TensorView& view) {
  if (view.rank() != 3 || view.size(2) != 1) return view;
  return TensorView(view.data(), view.dtype(), Shape{view.size(0), view.size(1)},
                    Dims{view.strides()[0], view.strides()[1]});
}

void add(std::map<std::string, Found>& modules, const std::string& key, const Place& place, const TensorView& view) {
  Found& found = modules.try_emplace(place.module, Found{place.layout, {}}).first->second;
  const auto [source, added] = found.sources.emplace(place.parameter, key);
  if (!added)
    throw CheckpointError("module " + place.module, "one tensor for " + place.parameter,
                          source->second + " and " + key);
  // The original's positions are sines and cosines; diffusers computes them anew, and so does a model without any.
  if (place.parameter.ends_with(".pos_encoder.pe")) {
    if (view.rank() == 3) found.positions = view.size(1);
    return;
  }
  if (place.parameter.ends_with(".pos_embed.pe") && view.rank() == 3) found.positions = view.size(1);
  const bool projection = place.parameter == "proj_in.weight" || place.parameter == "proj_out.weight";
  found.tensors[place.parameter] = projection ? as_linear(view) : view;
}

/// Fills what shapes say; false for tensors that make no module.
bool read_shapes(const Found& found, TransformerTemporalConfig& config) {
  const TensorView norm = found.find("norm.weight"), in = found.find("proj_in.weight");
  const TensorView proj = found.find("transformer_blocks.0.ff.net.0.proj.weight");
  if (norm.rank() != 1 || in.rank() != 2 || proj.rank() != 2) return false;
  const std::int64_t inner = in.size(0);
  if (inner < 1 || inner > kMaxWidth || norm.size(0) < 1 || norm.size(0) > kMaxWidth) return false;
  config.in_channels = norm.size(0);
  config.num_layers = 0;
  while (found.find("transformer_blocks." + std::to_string(config.num_layers) + ".ff.net.0.proj.weight"))
    ++config.num_layers;
  config.attention_bias = static_cast<bool>(found.find("transformer_blocks.0.attn1.to_q.bias"));
  config.norm_elementwise_affine = static_cast<bool>(found.find("transformer_blocks.0.norm1.weight"));
  const TensorView key = found.find("transformer_blocks.0.attn2.to_k.weight");
  config.double_self_attention = key.rank() == 2 && key.size(1) == inner;
  if (key.rank() == 2 && key.size(1) != inner) config.cross_attention_dim = key.size(1);
  config.activation_fn = proj.size(0) == 4 * inner ? Activation::gelu : Activation::geglu;
  return true;
}

void read_heads(const std::string& name, const Found& found, const UNetConfig& unet, TemporalModule& module) {
  const std::int64_t inner = found.find("proj_in.weight").size(0);
  const bool motion = is_motion(found.layout);
  const auto assume = [&](const char* key, std::optional<std::int64_t> known, std::int64_t published) {
    if (!known) module.assumed.emplace_back(key);
    return known.value_or(published);
  };
  const char* key = motion ? "num_attention_heads" : "attention_head_dim";
  std::int64_t divisor = kInputHeads;  // diffusers' and ModelScope's code has no other in transformer_in
  if (motion) {
    divisor = assume(key, unet.integer("motion_num_attention_heads", name), kMotionHeads);
  } else if (name != "transformer_in") {
    std::optional<std::int64_t> known = unet.integer("num_attention_heads", name);
    if (!known) known = unet.integer("attention_head_dim", name);
    divisor = assume(key, known, kHeadDim);
  }
  if (inner % divisor != 0)
    throw ConfigError("module " + name + ": " + key, "a divisor of its inner width " + std::to_string(inner),
                      std::to_string(divisor),
                      "Put the right config.json beside the file: no shape says it, and this is what " +
                          (module.assumed.empty() ? unet.path().string() + " says." : "published models have."));
  const bool counts_heads = motion || name == "transformer_in";
  module.config.num_attention_heads = counts_heads ? divisor : inner / divisor;
  module.config.attention_head_dim = counts_heads ? inner / divisor : divisor;
  std::optional<std::int64_t> groups = motion ? unet.integer("motion_norm_num_groups", name) : std::nullopt;
  if (!groups) groups = unet.integer("norm_num_groups", name);  // UNetMotionModel's motion modules have the UNet's
  module.config.norm_num_groups = assume("norm_num_groups", groups, kGroups);
}

void read_positions(const std::string& name, const Found& found, const UNetConfig& unet, TemporalModule& module) {
  std::int64_t positions = found.positions;
  // Motion modules have positions whether the file keeps them or not.
  if (positions == 0 && is_motion(found.layout)) {
    const auto known = unet.integer("motion_max_seq_length", name);
    if (!known) module.assumed.emplace_back("num_positional_embeddings");
    positions = known.value_or(found.layout == Layout::animatediff ? kLcmPositions : kAdapterPositions);
  }
  if (positions == 0) return;
  module.config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  module.config.num_positional_embeddings = positions;
}

std::string problem_of(const TemporalModule& module) {
  try {
    module.config.validate();
  } catch (const ConfigError& error) {
    return std::string("\n  ") + error.what();
  }
  engine::Weights weights;
  return model::state_dict_problems(model::parameter_slots(module.config, weights), module.state_dict);
}

}  // namespace

std::string_view name_of(Layout layout) noexcept {
  switch (layout) {
    case Layout::module:
      return "TransformerTemporalModel";
    case Layout::motion_adapter:
      return "MotionAdapter";
    case Layout::unet_motion:
      return "UNetMotionModel";
    case Layout::unet_3d:
      return "UNet3DConditionModel";
    case Layout::i2vgen_xl:
      return "I2VGenXLUNet";
    case Layout::animatediff:
      return "AnimateDiff";
    case Layout::modelscope:
      return "ModelScope";
  }
  return "";
}

bool is_motion(Layout layout) noexcept {
  return layout == Layout::motion_adapter || layout == Layout::unet_motion || layout == Layout::animatediff;
}

std::int64_t CheckpointModule::num_parameters() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : state_dict)
    if (!parameter.name.ends_with(".pos_embed.pe")) count += parameter.value.numel();
  return count;
}

DType CheckpointModule::dtype() const noexcept {
  return state_dict.empty() ? DType::f32 : state_dict.front().value.dtype();
}

std::vector<TemporalModule> temporal_modules(const Checkpoint& checkpoint) {
  std::map<std::string, Found> found;
  for (const auto& [name, view] : checkpoint.tensors())
    if (const auto place = model::place_of(name)) add(found, name, *place, view);
  const UNetConfig unet = checkpoint.files().empty() ? UNetConfig() : UNetConfig::beside(checkpoint.files().front());
  // Whole UNets have the same temporal keys as their smaller relatives, and others beside them.
  const auto layout_of = [&](Layout layout) {
    if (layout == Layout::motion_adapter && checkpoint.find("time_embedding.linear_1.weight"))
      return Layout::unet_motion;
    if (layout == Layout::unet_3d && checkpoint.find("image_latents_temporal_encoder.norm1.weight"))
      return Layout::i2vgen_xl;
    return layout;
  };
  std::vector<TemporalModule> modules;
  for (const auto& [name, tensors] : found) {
    TemporalModule module;
    module.name = name;
    module.layout = layout_of(tensors.layout);
    // The keys of the models by themselves are the same.
    if (name.empty() && (unet.is_of("Transformer2DModel") || unet.is_of("TransformerSpatioTemporalModel"))) continue;
    if (name.empty() && unet.is_of("TransformerTemporalModel")) {
      module.config = TransformerTemporalConfig::from_file(unet.path());
    } else {
      if (read_shapes(tensors, module.config)) {
        read_heads(name, tensors, unet, module);
        read_positions(name, tensors, unet, module);
      } else if (name.empty()) {
        continue;  // a "norm.weight" at the top is many a model's
      } else {
        module.problem =
            "\n  missing or misshapen norm.weight, proj_in.weight or transformer_blocks.0.ff.net.0.proj.weight";
      }
    }
    for (const auto& [parameter, view] : tensors.tensors) {
      module.state_dict.push_back({parameter, view});
      module.sources.push_back(tensors.sources.at(parameter));
    }
    for (const auto& [parameter, source] : tensors.sources)
      if (!tensors.tensors.contains(parameter)) module.recomputed.push_back(source);
    if (module.problem.empty()) module.problem = problem_of(module);
    modules.push_back(std::move(module));
  }
  std::stable_sort(modules.begin(), modules.end(), [](const TemporalModule& a, const TemporalModule& b) {
    return model::order_of(a.name) < model::order_of(b.name);
  });
  return modules;
}

TransformerTemporalModel load(const Checkpoint& checkpoint, std::string_view name, ModelOptions options) {
  const std::vector<TemporalModule> all = temporal_modules(checkpoint);
  const TemporalModule& module = model::pick(checkpoint, all, name, "temporal");
  return TransformerTemporalModel::from_state_dict(module.config, module.state_dict, checkpoint.owner(),
                                                   std::move(options));
}

}  // namespace kineograph

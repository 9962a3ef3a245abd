// Transformer2DModels and TransformerSpatioTemporalModels out of named tensors.
#include <algorithm>
#include <map>
#include <optional>

#include "base/same_values.h"
#include "base/text.h"
#include "model/layouts.h"
#include "model/lora_keys.h"
#include "model/modules.h"
#include "model/reading.h"
#include "model/unet_config.h"
#include "model/widen.h"

namespace kineograph {
namespace {

using model::UNetConfig;

// What published models have where no file says otherwise. Stable Diffusion 1 is told by the width of its text.
constexpr std::int64_t kHeadDim = 64, kHeadsOfSd1 = 8, kTextOfSd1 = 768, kGroups = 32;
constexpr std::int64_t kMaxWidth = 1 << 20;

/// A module's tensors on the way to a SpatialModule.
struct Found {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> sources;
  std::map<std::string, WeightScale> scales;

  TensorView find(const std::string& name) const {
    const auto found = tensors.find(name);
    return found == tensors.end() ? TensorView() : found->second;
  }
};

using FoundModules = std::map<std::string, Found>;  // by the module's name

/// The spatial modules below each path.
std::map<std::string, FoundModules> gather(const Checkpoint& checkpoint) {
  std::map<std::string, FoundModules> sets;
  for (const auto& [key, view] : checkpoint.tensors()) {
    const auto place = model::spatial_place_of(key);
    if (!place || model::is_adapter_key(key)) continue;
    if (model::is_input_scale(place->parameter)) continue;
    if (checkpoint.selected() == kRoot && !place->prefix.empty()) continue;
    Found& found = sets[place->prefix][place->module];
    const auto [source, added] = found.sources.emplace(place->parameter, key);
    if (!added)
      throw CheckpointError("module " + place->module, "one tensor for " + shortened(place->parameter),
                            shortened(source->second) + " and " + shortened(key));
    if (const auto weight = model::scaled_parameter(place->parameter))
      found.scales[*weight] = {view, key};
    else
      found.tensors[place->parameter] = view;
  }
  return sets;
}

/// Fills what shapes say; false for tensors that make no module.
bool read_shapes(const Found& found, Transformer2DConfig& config) {
  const TensorView norm = found.find("norm.weight"), in = found.find("proj_in.weight");
  const std::string block = "transformer_blocks.0";
  const TensorView proj = found.find(block + ".ff.net.0.proj.weight"), key1 = found.find(block + ".attn1.to_k.weight");
  if (norm.rank() != 1 || (in.rank() != 2 && in.rank() != 4) || proj.rank() != 2 || key1.rank() != 2) return false;
  const std::int64_t inner = in.size(0);
  if (inner < 1 || inner > kMaxWidth || norm.size(0) < 1 || norm.size(0) > kMaxWidth) return false;
  config.in_channels = norm.size(0);
  config.use_linear_projection = in.rank() == 2;
  config.num_layers = 0;
  while (found.find("transformer_blocks." + std::to_string(config.num_layers) + ".ff.net.0.proj.weight"))
    ++config.num_layers;
  config.attention_bias = static_cast<bool>(found.find(block + ".attn1.to_q.bias"));
  config.norm_elementwise_affine = static_cast<bool>(found.find(block + ".norm1.weight"));
  // An attn2 of I's width may as well be a second self-attention: to the numbers it is the same.
  if (const TensorView key2 = found.find(block + ".attn2.to_k.weight"); key2.rank() == 2)
    config.cross_attention_dim = key2.size(1);
  config.only_cross_attention = key1.size(1) != inner;
  while (found.find(block + ".attn2.processor.to_k_ip." + std::to_string(config.num_ip_adapters) + ".weight"))
    ++config.num_ip_adapters;
  config.activation_fn = proj.size(0) == 4 * inner ? Activation::gelu : Activation::geglu;
  return true;
}

/// UNet3DConditionModel and I2VGenXLUNet give a head's width by the name of a number of heads; UNet2DConditionModel a
/// number of heads by the name of a head's width.
void read_heads(const std::string& name, const UNetConfig& unet, std::int64_t inner, Transformer2DConfig& config,
                std::vector<std::string>& assumed) {
  bool is_width = unet.is_of("UNet3DConditionModel") || unet.is_of("I2VGenXLUNet");
  std::optional<std::int64_t> given = unet.integer("num_attention_heads", name);
  if (!given) given = unet.integer("attention_head_dim", name);
  if (!given) {
    assumed.emplace_back("num_attention_heads");
    is_width = config.cross_attention_dim != kTextOfSd1;
    given = is_width ? kHeadDim : kHeadsOfSd1;
  }
  if (inner % *given != 0)
    throw ConfigError((name.empty() ? "the module" : "module " + name) + ": num_attention_heads",
                      "a divisor of its inner width " + std::to_string(inner), std::to_string(*given),
                      "Put the right config.json beside the file: no shape says it.");
  config.num_attention_heads = is_width ? inner / *given : *given;
  config.attention_head_dim = is_width ? *given : inner / *given;
}

/// The arguments of TransformerSpatioTemporalModel among those of Transformer2DModel.
TransformerSpatioTemporalConfig as_spatio_temporal(const Transformer2DConfig& spatial) {
  TransformerSpatioTemporalConfig config;
  config.num_attention_heads = spatial.num_attention_heads;
  config.attention_head_dim = spatial.attention_head_dim;
  config.in_channels = spatial.in_channels;
  config.num_layers = spatial.num_layers;
  config.cross_attention_dim = spatial.cross_attention_dim;
  return config;
}

/// The configuration of a module of a UNet, or of one by itself without a config.json.
void read_config(const std::string& name, const Found& found, const UNetConfig& unet, SpatialModule& module) {
  Transformer2DConfig config;
  if (!read_shapes(found, config)) {
    module.problem = "\n  missing or misshapen norm.weight, proj_in.weight or weights of transformer_blocks.0";
    return;
  }
  read_heads(name, unet, found.find("proj_in.weight").size(0), config, module.assumed);
  const std::optional<std::int64_t> groups = unet.integer("norm_num_groups", name);
  if (!groups) module.assumed.emplace_back("norm_num_groups");
  config.norm_num_groups = groups.value_or(kGroups);
  if (found.find("time_mixer.mix_factor"))
    module.config = as_spatio_temporal(config);
  else
    module.config = config;
}

/// Whether tensors at the top of a file are a spatial model's: a temporal one's have the same names.
bool is_by_itself(const Found& found, const UNetConfig& unet) {
  return unet.is_of("Transformer2DModel") || unet.is_of("TransformerSpatioTemporalModel") ||
         found.find("time_mixer.mix_factor") || found.find("proj_in.weight").rank() == 4;
}

bool is_readable(const FoundModules& modules) {
  return std::any_of(modules.begin(), modules.end(), [](const auto& named) {
    Transformer2DConfig config;
    return read_shapes(named.second, config);
  });
}

/// Whether the second set's modules are all in the first one, to the last bit.
bool holds(const FoundModules& all, const FoundModules& some) {
  for (const auto& [name, found] : some) {
    const auto same = all.find(name);
    if (same == all.end()) return false;
    for (const auto& [parameter, view] : found.tensors)
      if (const TensorView other = same->second.find(parameter); !other || !same_values(other, view)) return false;
    if (!std::equal(found.scales.begin(), found.scales.end(), same->second.scales.begin(), same->second.scales.end(),
                    [](const auto& a, const auto& b) {
                      return a.first == b.first && same_values(a.second.value, b.second.value);
                    }))
      return false;
  }
  return true;
}

/// The modules of the file's only set. Paths that share no module are one set; of equal sets one is taken.
FoundModules collect(const Checkpoint& checkpoint) {
  std::map<std::string, FoundModules> sets = gather(checkpoint);
  const bool any = std::any_of(sets.begin(), sets.end(), [](const auto& set) { return is_readable(set.second); });
  std::erase_if(sets, [&](const auto& set) { return any && !is_readable(set.second); });
  FoundModules all;
  std::vector<std::string> paths;
  for (auto& [prefix, modules] : sets) {
    const bool apart =
        std::none_of(modules.begin(), modules.end(), [&](const auto& named) { return all.contains(named.first); });
    if (!apart && holds(all, modules)) continue;
    paths.push_back(prefix.empty() ? std::string(kRoot) : prefix);
    if (!apart) throw model::several_sets(checkpoint, "spatial", paths);
    all.merge(modules);
  }
  return all;
}

}  // namespace

std::vector<SpatialModule> spatial_modules(const Checkpoint& checkpoint) {
  const UNetConfig unet = checkpoint.files().empty() ? UNetConfig() : UNetConfig::beside(checkpoint.files().front());
  std::vector<SpatialModule> modules;
  for (const auto& [name, found] : collect(checkpoint)) {
    if (name.empty() && !is_by_itself(found, unet)) continue;
    SpatialModule module;
    module.name = name;
    if (name.empty() && unet.is_of("Transformer2DModel"))
      module.config = Transformer2DConfig::from_file(unet.path());
    else if (name.empty() && unet.is_of("TransformerSpatioTemporalModel"))
      module.config = TransformerSpatioTemporalConfig::from_file(unet.path());
    else
      read_config(name, found, unet, module);
    module.scales = found.scales;
    for (const auto& [parameter, view] : found.tensors) {
      module.state_dict.push_back({parameter, view});
      module.sources.push_back(found.sources.at(parameter));
    }
    if (module.problem.empty()) module.problem = model::problems_of(module.config, module);
    modules.push_back(std::move(module));
  }
  std::stable_sort(modules.begin(), modules.end(), [](const SpatialModule& a, const SpatialModule& b) {
    return model::order_of(a.name) < model::order_of(b.name);
  });
  return modules;
}

SpatialModel load_spatial(const Checkpoint& checkpoint, std::string_view name, ModelOptions options) {
  const std::vector<SpatialModule> all = spatial_modules(checkpoint);
  const SpatialModule& module = model::pick(checkpoint, all, name, "spatial");
  const model::Reading reading = model::read(checkpoint, module.state_dict, module.sources, module.scales);
  if (const auto* config = std::get_if<Transformer2DConfig>(&module.config))
    return Transformer2DModel::from_state_dict(*config, reading.state_dict, reading.owner, std::move(options));
  return TransformerSpatioTemporalModel::from_state_dict(std::get<TransformerSpatioTemporalConfig>(module.config),
                                                         reading.state_dict, reading.owner, std::move(options));
}

}  // namespace kineograph

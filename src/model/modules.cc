// Temporal modules out of named tensors: which sets of them a file holds, and one of them as a model.
#include "kineograph/modules.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/same_values.h"
#include "base/text.h"
#include "model/contents.h"
#include "model/found.h"
#include "model/layouts.h"
#include "model/modules.h"
#include "model/reading.h"
#include "model/unet_config.h"
#include "model/widen.h"

namespace kineograph {
namespace {

using model::Found;
using model::UNetConfig;

using FoundModules = std::map<std::string, Found>;      // by the module's name
using FoundSets = std::map<std::string, FoundModules>;  // by what stands before

std::string below(const std::string& prefix, const char* name) { return prefix.empty() ? name : prefix + "." + name; }

// A file of more sets was made to cost time: each is compared with the others.
constexpr std::size_t kMostSets = 64;

FoundSets gather(const Checkpoint& checkpoint, const UNetConfig& unet) {
  FoundSets sets;
  bool in_blocks = false;
  for (const auto& [key, view] : checkpoint.tensors()) {
    const auto place = model::place_of(key);
    if (!place) continue;
    in_blocks = in_blocks || !place->module.empty();
    FoundModules& modules = sets[place->prefix];
    modules.try_emplace(place->module, Found{place->layout}).first->second.add(key, *place, view);
  }
  // Beside the modules of a UNet, what looks like one by itself is another model's; and so where a config.json or
  // time_mixer says it, as the keys of spatial models by themselves are the same.
  const bool other = in_blocks || unet.is_of("Transformer2DModel") || unet.is_of("TransformerSpatioTemporalModel");
  for (auto& [prefix, modules] : sets)
    if (other || checkpoint.find(below(prefix, "time_mixer.mix_factor"))) modules.erase("");
  return sets;
}

/// The sets of a file that are modules: readable ones, or where there are none, what seems to be damaged ones.
FoundSets find_modules(const Checkpoint& checkpoint, const UNetConfig& unet) {
  FoundSets sets = gather(checkpoint, unet);
  const bool by_itself = unet.is_of("TransformerTemporalModel");
  // A "norm.weight" at the top is many a model's, and factors without weights are a LoRA.
  for (auto& [prefix, modules] : sets)
    std::erase_if(modules, [&](const auto& named) {
      return named.second.tensors.empty() || (named.first.empty() && !by_itself && !named.second.is_readable());
    });
  const auto has_readable = [](const FoundModules& modules) {
    return std::any_of(modules.begin(), modules.end(), [](const auto& named) { return named.second.is_readable(); });
  };
  const bool any = std::any_of(sets.begin(), sets.end(), [&](const auto& set) { return has_readable(set.second); });
  // The moments in an optimizer's state are under their parameters' paths.
  std::erase_if(sets, [&](const auto& set) { return any ? !has_readable(set.second) : set.second.empty(); });
  if (sets.size() > kMostSets)
    throw CheckpointError(checkpoint.where(), "at most " + std::to_string(kMostSets) + " sets of temporal modules",
                          std::to_string(sets.size()));
  return sets;
}

/// Whole UNets have the same temporal keys as their smaller relatives, and others beside them.
Layout layout_of(const Checkpoint& checkpoint, const std::string& prefix, Layout layout) {
  const auto has = [&](const char* name) { return static_cast<bool>(checkpoint.find(below(prefix, name))); };
  if (layout == Layout::motion_adapter && has("time_embedding.linear_1.weight")) return Layout::unet_motion;
  if (layout == Layout::unet_3d && has("image_latents_temporal_encoder.norm1.weight")) return Layout::i2vgen_xl;
  return layout;
}

/// Joins sets that share no module: parts of one model under paths of their own.
FoundSets joined(FoundSets sets) {
  std::set<std::string_view> names;
  std::size_t count = 0;
  for (const auto& [prefix, modules] : sets) {
    for (const auto& [name, found] : modules) names.insert(name);
    count += modules.size();
  }
  if (sets.size() < 2 || names.size() != count) return sets;
  FoundModules all;
  for (auto& [prefix, modules] : sets) all.merge(modules);
  FoundSets one;
  one.emplace("", std::move(all));
  return one;
}

/// Whether two sets are one to the last bit.
bool equal(const ModuleSet& a, const ModuleSet& b) {
  const auto same_scales = [](const TemporalModule& x, const TemporalModule& y) {
    return std::equal(x.scales.begin(), x.scales.end(), y.scales.begin(), y.scales.end(), [](auto& s, auto& t) {
      return s.first == t.first && same_values(s.second.value, t.second.value);
    });
  };
  const auto same = [&](const TemporalModule& x, const TemporalModule& y) {
    return x.name == y.name && x.config.to_json() == y.config.to_json() && same_scales(x, y) &&
           std::equal(x.state_dict.begin(), x.state_dict.end(), y.state_dict.begin(), y.state_dict.end(),
                      [](const Parameter& p, const Parameter& q) {
                        return p.name == q.name && same_values(p.value, q.value);
                      });
  };
  return std::equal(a.modules.begin(), a.modules.end(), b.modules.begin(), b.modules.end(), same);
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
  return state_dict.empty() ? DType::f32 : model::read_dtype(state_dict.front().value.dtype());
}

std::vector<ModuleSet> module_sets(const Checkpoint& checkpoint) {
  const UNetConfig unet = checkpoint.files().empty() ? UNetConfig() : UNetConfig::beside(checkpoint.files().front());
  std::vector<ModuleSet> sets;
  for (auto& [prefix, modules] : joined(find_modules(checkpoint, unet))) {
    if (checkpoint.selected() == kRoot && !prefix.empty()) continue;
    ModuleSet set{prefix.empty() ? std::string(kRoot) : prefix, {}};
    for (const auto& [name, found] : modules) {
      set.modules.push_back(model::make_module(name, found, unet));
      set.modules.back().layout = layout_of(checkpoint, prefix, set.modules.back().layout);
    }
    std::stable_sort(set.modules.begin(), set.modules.end(), [](const TemporalModule& a, const TemporalModule& b) {
      return model::order_of(a.name) < model::order_of(b.name);
    });
    if (std::none_of(sets.begin(), sets.end(), [&](const ModuleSet& other) { return equal(other, set); }))
      sets.push_back(std::move(set));
  }
  return sets;
}

ModuleSet model::only_set(const Checkpoint& checkpoint) {
  std::vector<ModuleSet> sets = module_sets(checkpoint);
  if (sets.empty()) return {};
  if (sets.size() == 1) return std::move(sets.front());
  std::vector<std::string> paths;
  for (const ModuleSet& set : sets)
    paths.push_back(shortened(set.path) + " (" + std::to_string(set.modules.size()) + " modules)");
  throw model::several_sets(checkpoint, "temporal", paths);
}

std::vector<TemporalModule> temporal_modules(const Checkpoint& checkpoint) {
  return model::only_set(checkpoint).modules;
}

TransformerTemporalModel load(const Checkpoint& checkpoint, std::string_view name, ModelOptions options) {
  const std::vector<TemporalModule> all = temporal_modules(checkpoint);
  const TemporalModule& module = model::pick(checkpoint, all, name, "temporal");
  const model::Reading reading = model::read(checkpoint, module.state_dict, module.sources, module.scales);
  return TransformerTemporalModel::from_state_dict(module.config, reading.state_dict, reading.owner,
                                                   std::move(options));
}

}  // namespace kineograph

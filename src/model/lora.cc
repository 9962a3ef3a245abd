#include "kineograph/lora.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/printable.h"
#include "model/layouts.h"

namespace kineograph {
namespace {

// Endings of a low-rank pair, down before up, in the forms of docs/checkpoints.md.
constexpr std::array<std::array<std::string_view, 2>, 5> kEndings = {
    {{"_lora.down.weight", "_lora.up.weight"},
     {".lora.down.weight", ".lora.up.weight"},
     {".lora_down.weight", ".lora_up.weight"},
     {".lora_A.weight", ".lora_B.weight"},
     {".lora_A.default.weight", ".lora_B.default.weight"}}};
constexpr std::string_view kAlpha = ".alpha";

// Where PEFT and diffusers save a LoRA, in a folder.
constexpr std::string_view kFiles[] = {"adapter_model.safetensors", "pytorch_lora_weights.safetensors",
                                       "adapter_model.bin", "pytorch_lora_weights.bin"};
// PEFT's settings: a file beside the weights, or, from diffusers, text among the metadata with "unet." before its keys.
constexpr const char *kPeftConfig = "adapter_config.json", *kMetadata = "lora_adapter_metadata";

struct Pair {
  TensorView down, up, alpha;
};

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += "\n  " + printable(name);
  return text;
}

/// "...attn1.processor.to_out" or "...attn1.to_out.0" -> the weight's place.
std::optional<model::Place> target_of(std::string key) {
  constexpr std::string_view kPeft = "base_model.model.", kProcessor = ".processor.";
  if (key.starts_with(kPeft)) key.erase(0, kPeft.size());
  if (const std::size_t at = key.find(kProcessor); at != std::string::npos) key.erase(at, kProcessor.size() - 1);
  if (key.ends_with(".to_out")) key += ".0";
  return model::place_of(key + ".weight");
}

double value_of(const TensorView& view) { return convert(view, DType::f64).data_as<double>()[0]; }

/// The scaling that PEFT saves: lora_alpha / r, or / sqrt(r) with use_rslora; 1 where nothing says otherwise.
class PeftScaling {
 public:
  PeftScaling(const Checkpoint& checkpoint, const std::filesystem::path& file) {
    const auto metadata = checkpoint.metadata().find(kMetadata);
    const auto beside = file.parent_path() / kPeftConfig;
    if (metadata != checkpoint.metadata().end())
      where_ = file.string() + ": " + kMetadata, read(metadata->second);
    else if (std::filesystem::exists(beside))
      where_ = beside.string(), read(checkpoint::read_text(beside));
  }
  double of(std::string_view path, std::int64_t rank) const {
    const std::optional<double> alpha = alpha_of(path);
    if (!alpha) return 1.0;
    const auto r = static_cast<double>(rank);
    return *alpha / (rslora_ ? std::sqrt(r) : r);
  }

 private:
  using Json = nlohmann::json;

  void read(std::string_view text) {
    const Json json = checkpoint::parse_json<Json, FormatError>(text, where_);
    const auto find = [&](const std::string& key) {
      const auto prefixed = json.find("unet." + key), plain = json.find(key);
      return prefixed != json.end() ? *prefixed : plain != json.end() ? *plain : Json();
    };
    if (const Json alpha = find("lora_alpha"); !alpha.is_null()) alpha_ = number("lora_alpha", alpha);
    rslora_ = find("use_rslora") == Json(true);
    const Json patterns = find("alpha_pattern");
    if (!patterns.is_object()) return;
    for (const auto& [pattern, alpha] : patterns.items()) {
      const std::string plain = pattern.starts_with('^') ? pattern.substr(1) : pattern;
      if (plain.find_first_of("*+?[](){}|\\^$") != std::string::npos)
        throw FormatError(where_ + ": alpha_pattern", "paths of modules", pattern);
      patterns_[plain] = number("alpha_pattern", alpha);
    }
  }
  double number(const char* key, const Json& json) const {
    if (!json.is_number()) throw FormatError(where_ + ": " + key, "a number", json.dump());
    return json.get<double>();
  }
  std::optional<double> alpha_of(std::string_view path) const {
    for (const auto& [pattern, alpha] : patterns_)
      if (path == pattern || path.ends_with("." + pattern)) return alpha;
    return alpha_;
  }

  std::string where_;
  std::optional<double> alpha_;
  std::map<std::string, double> patterns_;
  bool rslora_ = false;
};

std::filesystem::path file_in(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return path;
  std::string known;
  for (const std::string_view name : kFiles) {
    if (std::filesystem::exists(path / name)) return path / name;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  throw IoError(path.string(), "one of " + known, "none of them");
}

bool is_of(const Lora::Delta& delta, std::string_view module, const Parameter& parameter) {
  return delta.module == module && delta.parameter == parameter.name &&
         parameter.value.shape() == Shape{delta.up.size(0), delta.down.size(1)};
}

std::string describe(const Lora::Delta& delta) {
  return delta.key + " [" + std::to_string(delta.up.size(0)) + ", " + std::to_string(delta.down.size(1)) + "]";
}

/// out (rows, columns) += factor * up (rows, rank) * down (rank, columns), each element's terms in the order of r.
/// Columns go in strips whose part of `down` stays in the cache, and four terms at a time pass through the registers.
void add_product(double factor, const double* up, const double* down, std::int64_t rows, std::int64_t rank,
                 std::int64_t columns, double* out) {
  constexpr std::int64_t kStrip = 256, kTerms = 4;
  for (std::int64_t begin = 0; begin < columns; begin += kStrip) {
    const std::int64_t width = std::min(kStrip, columns - begin);
    for (std::int64_t row = 0; row < rows; ++row) {
      double* __restrict__ to = out + row * columns + begin;
      const double* scales = up + row * rank;
      std::int64_t r = 0;
      for (; r + kTerms <= rank; r += kTerms) {
        const double* __restrict__ from = down + r * columns + begin;
        const double f0 = factor * scales[r], f1 = factor * scales[r + 1], f2 = factor * scales[r + 2],
                     f3 = factor * scales[r + 3];
        for (std::int64_t i = 0; i < width; ++i)
          to[i] = (((to[i] + f0 * from[i]) + f1 * from[columns + i]) + f2 * from[2 * columns + i]) +
                  f3 * from[3 * columns + i];
      }
      for (; r < rank; ++r) {
        const double* __restrict__ from = down + r * columns + begin;
        const double f = factor * scales[r];
        for (std::int64_t i = 0; i < width; ++i) to[i] += f * from[i];
      }
    }
  }
}

void require_finite(double scale) {
  if (!std::isfinite(scale)) throw ArgumentError("scale", "a finite number", std::to_string(scale));
}

}  // namespace

Lora Lora::open(const std::filesystem::path& path) {
  const std::filesystem::path file = file_in(path);
  const Checkpoint checkpoint = Checkpoint::open(file);
  const PeftScaling peft(checkpoint, file);
  Lora lora;
  lora.owner_ = checkpoint.owner();
  lora.where_ = path.string();
  std::map<std::string, Pair> pairs;
  std::vector<std::string> strange;
  for (const auto& [name, view] : checkpoint.tensors()) {
    checkpoint.verify(name);
    // Some of the original's come with the positions, which a LoRA leaves as they are; diffusers drops them too.
    bool known = name.ends_with(".pos_encoder.pe");
    for (const auto& ending : kEndings)
      for (std::size_t side = 0; side < 2 && !known; ++side)
        if (name.ends_with(ending[side])) {
          Pair& pair = pairs[name.substr(0, name.size() - ending[side].size())];
          (side == 0 ? pair.down : pair.up) = view;
          known = true;
        }
    if (!known && name.ends_with(kAlpha) && view.numel() == 1 && is_floating(view.dtype())) {
      pairs[name.substr(0, name.size() - kAlpha.size())].alpha = view;
      known = true;
    }
    if (!known) strange.push_back(name);
  }
  for (const auto& [key, pair] : pairs) {
    const auto place = target_of(key);
    const bool fits = place && pair.down.rank() == 2 && pair.up.rank() == 2 && pair.down.size(0) == pair.up.size(1) &&
                      pair.down.size(0) > 0 && is_floating(pair.down.dtype()) && is_floating(pair.up.dtype());
    if (!fits) {
      strange.push_back(key);
      continue;
    }
    const std::int64_t rank = pair.down.size(0);
    const std::string path_of_layer =
        place->module + "." + place->parameter.substr(0, place->parameter.size() - std::string_view(".weight").size());
    const double factor = pair.alpha ? value_of(pair.alpha) / static_cast<double>(rank) : peft.of(path_of_layer, rank);
    lora.deltas_.push_back({key, place->module, place->parameter, pair.down, pair.up, factor});
  }
  if (!strange.empty() || lora.deltas_.empty())
    throw CheckpointError(lora.where_ +
                          ": expected pairs of down (r, in) and up (out, r) for weights of temporal modules, found " +
                          (strange.empty() ? "none" : "others:" + list(strange)));
  return lora;
}

void Lora::require_in(const std::vector<TemporalModule>& modules) const {
  std::vector<std::string> unmatched;
  for (const Delta& delta : deltas_) {
    bool found = false;
    for (const TemporalModule& module : modules)
      for (const Parameter& parameter : module.state_dict) found = found || is_of(delta, module.name, parameter);
    if (!found) unmatched.push_back(describe(delta));
  }
  if (!unmatched.empty())
    throw CheckpointError(where_ + ": expected keys that match a weight of the checkpoint, found" + list(unmatched));
}

Tensor merged_weight(const LoraStack& loras, std::string_view module, std::string_view parameter, TensorView weight,
                     DType dtype) {
  Tensor sum;
  for (const auto& [lora, scale] : loras)
    for (const Lora::Delta& delta : lora.deltas()) {
      if (delta.module != module || delta.parameter != parameter || scale == 0.0) continue;
      if (!is_of(delta, module, {std::string(parameter), weight}))
        throw CheckpointError("lora: expected the shape of " + std::string(parameter) + ", " +
                              to_string(weight.shape()) + ", found " + describe(delta));
      if (!sum) sum = convert(weight, DType::f64);
      const Tensor down = convert(delta.down, DType::f64), up = convert(delta.up, DType::f64);
      const std::int64_t rows = delta.up.size(0), rank = delta.up.size(1), columns = delta.down.size(1);
      add_product(scale * delta.factor, up.data_as<double>(), down.data_as<double>(), rows, rank, columns,
                  sum.data_as<double>());
    }
  return sum ? convert(sum, dtype) : Tensor();
}

AdaptedModel::AdaptedModel(TransformerTemporalModel base, std::string module, ModelOptions options)
    : base_(base), current_(base), module_(std::move(module)), options_(std::move(options)) {}

std::size_t AdaptedModel::index_of(const std::string& name) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  if (found == names_.end()) throw ArgumentError("lora", "the name of one that was added", name);
  return static_cast<std::size_t>(found - names_.begin());
}

void AdaptedModel::add_lora(const std::string& name, const Lora& lora, double scale) {
  if (std::find(names_.begin(), names_.end(), name) != names_.end())
    throw ArgumentError("lora", "a name that is not taken", name);
  require_finite(scale);
  std::vector<std::string> unmatched;
  std::size_t mine = 0;
  for (const Lora::Delta& delta : lora.deltas()) {
    if (delta.module != module_) continue;
    ++mine;
    const auto& parameters = base_.parameters();
    const auto fits = [&](const Parameter& parameter) { return is_of(delta, module_, parameter); };
    if (std::none_of(parameters.begin(), parameters.end(), fits)) unmatched.push_back(describe(delta));
  }
  if (mine == 0) throw CheckpointError("lora " + name, "keys of module " + module_, "none");
  if (!unmatched.empty())
    throw CheckpointError("lora " + name + ": expected keys that match a weight of " + module_ + ", found" +
                          list(unmatched));
  std::vector<std::string> names = names_;
  LoraStack loras = loras_;
  names.push_back(name);
  loras.emplace_back(lora, scale);
  rebuild(loras);
  names_ = std::move(names);
  loras_ = std::move(loras);
}

void AdaptedModel::set_scale(const std::string& name, double scale) {
  require_finite(scale);
  LoraStack loras = loras_;
  loras[index_of(name)].second = scale;
  rebuild(loras);
  loras_ = std::move(loras);
}

void AdaptedModel::remove_lora(const std::string& name) {
  const auto index = static_cast<std::ptrdiff_t>(index_of(name));
  LoraStack loras = loras_;
  loras.erase(loras.begin() + index);
  rebuild(loras);
  names_.erase(names_.begin() + index);
  loras_ = std::move(loras);
}

void AdaptedModel::rebuild(const LoraStack& loras) {
  if (loras.empty()) {
    current_ = base_;
    return;
  }
  // What the new model holds on to: the base, and the weights that differ from it.
  struct Owned {
    TransformerTemporalModel base;
    std::vector<Tensor> merged;
  };
  const auto owned = std::make_shared<Owned>(Owned{base_, {}});
  std::vector<Parameter> parameters = base_.parameters();
  for (Parameter& parameter : parameters) {
    Tensor merged = merged_weight(loras, module_, parameter.name, parameter.value, parameter.value.dtype());
    if (!merged) continue;
    owned->merged.push_back(std::move(merged));
    parameter.value = owned->merged.back();
  }
  current_ = TransformerTemporalModel::from_state_dict(base_.config(), parameters, owned, options_);
}

}  // namespace kineograph

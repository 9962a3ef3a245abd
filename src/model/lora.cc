#include "kineograph/lora.h"

#include <algorithm>
#include <array>
#include <map>

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

struct Pair {
  TensorView down, up, alpha;
};

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += "\n  " + name;
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

double value_of(const TensorView& view) {
  const Tensor one = convert(view, DType::f64);
  return one.numel() == 1 ? one.data_as<double>()[0] : 0.0;
}

}  // namespace

Lora Lora::open(const std::filesystem::path& path) {
  const Checkpoint checkpoint = Checkpoint::open(path);
  Lora lora;
  lora.owner_ = checkpoint.owner();
  lora.where_ = path.string();
  std::map<std::string, Pair> pairs;
  std::vector<std::string> strange;
  for (const auto& [name, view] : checkpoint.tensors()) {
    checkpoint.verify(name);
    bool known = false;
    for (const auto& ending : kEndings)
      for (std::size_t side = 0; side < 2 && !known; ++side)
        if (name.ends_with(ending[side])) {
          Pair& pair = pairs[name.substr(0, name.size() - ending[side].size())];
          (side == 0 ? pair.down : pair.up) = view;
          known = true;
        }
    if (!known && name.ends_with(kAlpha) && view.numel() == 1) {
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
    const double rank = static_cast<double>(pair.down.size(0));
    lora.deltas_.push_back(
        {key, place->module, place->parameter, pair.down, pair.up, pair.alpha ? value_of(pair.alpha) / rank : 1.0});
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
      for (const Parameter& parameter : module.state_dict)
        found = found || (module.name == delta.module && parameter.name == delta.parameter &&
                          parameter.value.shape() == Shape{delta.up.size(0), delta.down.size(1)});
    if (!found)
      unmatched.push_back(delta.key + " [" + std::to_string(delta.up.size(0)) + ", " +
                          std::to_string(delta.down.size(1)) + "]");
  }
  if (!unmatched.empty())
    throw CheckpointError(where_ + ": expected keys that match a weight of the checkpoint, found" + list(unmatched));
}

Tensor merged_weight(const LoraStack& loras, std::string_view module, std::string_view parameter, TensorView weight,
                     DType dtype) {
  Tensor sum;
  for (const auto& [lora, scale] : loras)
    for (const Lora::Delta& delta : lora.deltas()) {
      if (delta.module != module || delta.parameter != parameter) continue;
      if (!sum) sum = convert(weight, DType::f64);
      const Tensor down = convert(delta.down, DType::f64), up = convert(delta.up, DType::f64);
      const std::int64_t rows = delta.up.size(0), rank = delta.up.size(1), columns = delta.down.size(1);
      double* out = sum.data_as<double>();
      for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t r = 0; r < rank; ++r) {
          const double factor = scale * delta.factor * up.data_as<double>()[row * rank + r];
          for (std::int64_t column = 0; column < columns; ++column)
            out[row * columns + column] += factor * down.data_as<double>()[r * columns + column];
        }
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
  const auto mine = [&](const Lora::Delta& delta) { return delta.module == module_; };
  if (std::none_of(lora.deltas().begin(), lora.deltas().end(), mine))
    throw CheckpointError("lora " + name, "keys of module " + module_, "none");
  names_.push_back(name);
  loras_.emplace_back(lora, scale);
  rebuild();
}

void AdaptedModel::set_scale(const std::string& name, double scale) {
  loras_[index_of(name)].second = scale;
  rebuild();
}

void AdaptedModel::remove_lora(const std::string& name) {
  const auto index = static_cast<std::ptrdiff_t>(index_of(name));
  names_.erase(names_.begin() + index);
  loras_.erase(loras_.begin() + index);
  rebuild();
}

void AdaptedModel::rebuild() {
  if (loras_.empty()) {
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
    Tensor merged = merged_weight(loras_, module_, parameter.name, parameter.value, parameter.value.dtype());
    if (!merged) continue;
    owned->merged.push_back(std::move(merged));
    parameter.value = owned->merged.back();
  }
  current_ = TransformerTemporalModel::from_state_dict(base_.config(), parameters, owned, options_);
}

}  // namespace kineograph

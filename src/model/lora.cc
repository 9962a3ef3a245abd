// Low-rank additions to weights.
#include "kineograph/lora.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "model/lora_keys.h"
#include "model/widen.h"

namespace kineograph {
namespace {

bool fits(const Lora::Delta& delta, const TensorView& weight) {
  return weight.shape() == Shape{delta.up.size(0), delta.down.size(1)};
}

std::string describe(const Lora::Delta& delta) { return to_string(Shape{delta.up.size(0), delta.down.size(1)}); }

Tensor as_double(const TensorView& view) {
  return model::is_eight_bit(view.dtype()) ? convert(model::widened(view, {}), DType::f64) : convert(view, DType::f64);
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

/// `why_not` says why a delta has no weight; empty where it has one.
template <class Fits>
Lora Lora::fitted(const Fits& why_not, const std::string& to, bool strict) const {
  Lora out = *this;
  out.deltas_.clear();
  for (const Delta& delta : deltas_) {
    std::string why = why_not(delta);
    if (why.empty())
      out.deltas_.push_back(delta);
    else
      out.skipped_.push_back({delta.key, std::move(why)});
  }
  std::vector<std::string> skipped;
  for (const Skipped& skip : out.skipped_) skipped.push_back(shortened(skip.key) + ": " + skip.why);
  if (out.deltas_.empty())
    throw CheckpointError(printable(where_) + ": expected low-rank pairs for weights of " + to + ", found none" +
                          (skipped.empty() ? "" : ", but") + first_of(skipped));
  if (strict && !skipped.empty())
    throw CheckpointError(printable(where_) + ": expected only low-rank pairs for weights of " + to + ", found" +
                          first_of(skipped));
  return out;
}

Lora Lora::fitted_to(const std::vector<TemporalModule>& modules, bool strict) const {
  const auto why_not = [&](const Delta& delta) -> std::string {
    const auto module = std::find_if(modules.begin(), modules.end(),
                                     [&](const TemporalModule& known) { return known.name == delta.module; });
    if (module == modules.end()) return "the model has no module " + delta.module;
    for (const Parameter& parameter : module->state_dict)
      if (parameter.name == delta.parameter)
        return fits(delta, parameter.value)
                   ? std::string()
                   : "the weight is " + to_string(parameter.value.shape()) + ", not " + describe(delta);
    return "the module has no " + shortened(delta.parameter);
  };
  return fitted(why_not, "the model", strict);
}

Lora Lora::fitted_to(std::string_view module, const std::vector<Parameter>& parameters, bool strict) const {
  Lora mine = *this;
  std::erase_if(mine.deltas_, [&](const Delta& delta) { return delta.module != module; });
  std::erase_if(mine.skipped_, [&](const Skipped& skipped) {
    const auto place = model::lora_target(skipped.key);
    return !place || place->module != module;
  });
  const auto why_not = [&](const Delta& delta) -> std::string {
    for (const Parameter& parameter : parameters)
      if (parameter.name == delta.parameter)
        return fits(delta, parameter.value)
                   ? std::string()
                   : "the weight is " + to_string(parameter.value.shape()) + ", not " + describe(delta);
    return "the module has no " + shortened(delta.parameter);
  };
  return mine.fitted(why_not, "module " + std::string(module), strict);
}

Tensor merged_weight(const LoraStack& loras, std::string_view module, std::string_view parameter, TensorView weight,
                     DType dtype) {
  Tensor sum;
  for (const auto& [lora, scale] : loras)
    for (const Lora::Delta& delta : lora.deltas()) {
      if (delta.module != module || delta.parameter != parameter || scale == 0.0) continue;
      if (!fits(delta, weight))
        throw CheckpointError("lora: expected the shape of " + shortened(parameter) + ", " + to_string(weight.shape()) +
                              ", found " + describe(delta) + " of " + shortened(delta.key));
      if (!sum) sum = convert(weight, DType::f64);
      const Tensor down = as_double(delta.down), up = as_double(delta.up);
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

std::vector<Lora::Skipped> AdaptedModel::add_lora(const std::string& name, const Lora& lora, double scale,
                                                  bool strict) {
  if (std::find(names_.begin(), names_.end(), name) != names_.end())
    throw ArgumentError("lora", "a name that is not taken", name);
  require_finite(scale);
  const Lora fitted = lora.fitted_to(module_, base_.parameters(), strict);
  std::vector<std::string> names = names_;
  LoraStack loras = loras_;
  names.push_back(name);
  loras.emplace_back(fitted, scale);
  rebuild(loras);
  names_ = std::move(names);
  loras_ = std::move(loras);
  return fitted.skipped();
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

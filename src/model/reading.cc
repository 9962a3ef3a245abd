#include "model/reading.h"

#include <deque>
#include <utility>

#include "base/text.h"
#include "model/parameters.h"
#include "model/widen.h"

namespace kineograph::model {

std::string problems_of(const ModelConfig& config, const CheckpointModule& module) {
  try {
    std::visit([](const auto& one) { one.validate(); }, config);
  } catch (const ConfigError& error) {
    return std::string("\n  ") + error.what();
  }
  std::vector<Parameter> as_read = module.state_dict;
  std::map<std::string_view, TensorView> stored;
  for (Parameter& parameter : as_read) {
    const TensorView view = parameter.value;
    stored[parameter.name] = view;
    if (is_eight_bit(view.dtype())) parameter.value = {view.data(), DType::f16, view.shape(), view.strides()};
  }
  engine::Weights weights;
  std::string problems = state_dict_problems(parameter_slots(config, weights), as_read);
  for (const auto& [name, scale] : module.scales) {
    const auto weight = stored.find(name);
    const std::string problem =
        weight == stored.end() ? "a scale without a weight" : scale_problem(weight->second, scale.value);
    if (!problem.empty()) problems += "\n  " + shortened(name) + ": " + problem;
  }
  return problems;
}

Reading read(const Checkpoint& checkpoint, std::vector<Parameter> state_dict, const std::vector<std::string>& sources,
             const std::map<std::string, WeightScale>& scales) {
  struct Owned {
    std::shared_ptr<const void> file;
    std::deque<Tensor> widened;
  };
  const auto owned = std::make_shared<Owned>(Owned{checkpoint.owner(), {}});
  for (std::size_t i = 0; i < state_dict.size(); ++i) {
    checkpoint.verify(sources[i]);
    TensorView& value = state_dict[i].value;
    if (!is_eight_bit(value.dtype())) continue;
    const auto scale = scales.find(state_dict[i].name);
    if (scale != scales.end()) checkpoint.verify(scale->second.source);
    value = owned->widened.emplace_back(widened(value, scale == scales.end() ? TensorView() : scale->second.value));
  }
  return {std::move(state_dict), owned};
}

Reading read_whole(const Checkpoint& checkpoint) {
  std::vector<Parameter> state_dict;
  std::vector<std::string> sources;
  std::map<std::string, WeightScale> scales;
  for (const auto& [name, view] : checkpoint.tensors()) {
    const auto scaled = scaled_parameter(name);
    const TensorView weight = scaled ? checkpoint.find(*scaled) : TensorView();
    if (weight && is_eight_bit(weight.dtype())) {
      if (const std::string problem = scale_problem(weight, view); !problem.empty())
        throw CheckpointError(printable(checkpoint.where()) + ": " + shortened(name) + ": " + problem);
      scales[*scaled] = {view, name};
    } else if (!is_input_scale(name)) {
      state_dict.push_back({name, view});
      sources.push_back(name);
    }
  }
  return read(checkpoint, std::move(state_dict), sources, scales);
}

}  // namespace kineograph::model

#include "model/reading.h"

#include <deque>
#include <utility>

#include "base/text.h"
#include "model/widen.h"

namespace kineograph::model {

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
        throw CheckpointError(checkpoint.where() + ": " + shortened(name) + ": " + problem);
      scales[*scaled] = {view, name};
    } else if (!is_input_scale(name)) {
      state_dict.push_back({name, view});
      sources.push_back(name);
    }
  }
  return read(checkpoint, std::move(state_dict), sources, scales);
}

}  // namespace kineograph::model

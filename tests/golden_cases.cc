#include "golden_cases.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "model/seeded.h"

namespace kineograph::testing {

DType dtype_of_name(const std::string& name) {
  return name == "bf16" ? DType::bf16 : name == "f16" ? DType::f16 : DType::f32;
}

Tensor draw(const model::Slot& slot, std::uint64_t seed, DType dtype, bool seeded_positions) {
  const model::SeededUniform uniform(seed, slot.name);
  if (slot.role == model::Role::positions && !seeded_positions)
    return convert(model::sinusoidal_positions(slot.shape[1], slot.shape[2]), dtype);
  Tensor values(DType::f32, slot.shape);
  const bool query_or_key = slot.name.ends_with(".to_q.weight") || slot.name.ends_with(".to_k.weight");
  const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(1, slot.fan_in))));
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    const float u = uniform(static_cast<std::uint64_t>(i));
    float& value = values.data_as<float>()[i];
    switch (slot.role) {
      case model::Role::norm_weight:
        value = 1.0f + 0.25f * u;
        break;
      case model::Role::norm_bias:
        value = 0.25f * u;
        break;
      case model::Role::embedding:
        value = static_cast<float>(std::sqrt(3.0)) * u;
        break;
      case model::Role::positions:
      case model::Role::mix_factor:
        value = u;
        break;
      default:
        value = query_or_key ? 3.0f * (bound * u) : bound * u;
    }
  }
  return convert(values, dtype);
}

std::vector<Parameter> draw_state_dict(const ModelConfig& config, std::uint64_t seed, DType dtype,
                                       bool seeded_positions, std::vector<Tensor>& tensors) {
  engine::Weights weights;
  std::vector<Parameter> state_dict;
  const std::vector<model::Slot> slots = model::parameter_slots(config, weights);
  tensors.reserve(slots.size());
  for (const auto& slot : slots) {
    tensors.push_back(draw(slot, seed, dtype, seeded_positions));
    state_dict.push_back({slot.name, tensors.back().view()});
  }
  return state_dict;
}

std::filesystem::path golden_folder() { return std::filesystem::path(KINEOGRAPH_GOLDENS); }

std::vector<std::string> golden_names(const std::string& below) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder() / below))
    if (entry.path().extension() == ".safetensors" && entry.path().stem() != "gradients")
      names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

Golden load_golden(const std::filesystem::path& path) {
  Golden golden{path.stem(), {}, 0, DType::f32, false, 1, {}, Checkpoint::open(path)};
  const auto& metadata = golden.file.metadata();
  golden.config = TransformerTemporalConfig::from_json(metadata.at("config"), path.string());
  golden.seed = std::stoull(metadata.at("seed"));
  golden.weights_dtype = dtype_of_name(metadata.at("weights_dtype"));
  const auto positions = metadata.find("pe");
  golden.seeded_positions = positions != metadata.end() && positions->second == "seeded";
  golden.num_frames = std::stoll(metadata.at("num_frames"));
  if (const auto context = metadata.find("context"); context != metadata.end()) {
    const auto [length, stride, weighting] =
        nlohmann::json::parse(context->second).get<std::tuple<std::int64_t, std::int64_t, std::string>>();
    golden.context = {length, stride, context_weighting(weighting)};
  }
  return golden;
}

TransformerTemporalModel Golden::model(const ModelOptions& options) const {
  auto tensors = std::make_shared<std::vector<Tensor>>();
  const std::vector<Parameter> state_dict = draw_state_dict(config, seed, weights_dtype, seeded_positions, *tensors);
  return TransformerTemporalModel::from_state_dict(config, state_dict, tensors, options);
}

ForwardOptions Golden::arguments() const {
  ForwardOptions options;
  options.num_frames = num_frames;
  options.context = context;
  options.encoder_hidden_states = file.find("encoder_hidden_states");
  options.timestep = file.find("timestep");
  options.class_labels = file.find("class_labels");
  return options;
}

}  // namespace kineograph::testing

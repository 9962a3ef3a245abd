// Transformer2DModel and TransformerSpatioTemporalModel against what diffusers computes (tests/goldens).
#include <gtest/gtest.h>

#include "closeness.h"
#include "golden_cases.h"

namespace kineograph::testing {
namespace {

/// A golden of either model.
struct Case {
  explicit Case(const std::string& name)
      : file(Checkpoint::open(golden_folder() / (name + ".safetensors"))),
        seed(std::stoull(file.metadata().at("seed"))),
        dtype(dtype_of_name(file.metadata().at("weights_dtype"))) {}

  /// `Model` over the weights of the golden.
  template <class Model, class Config>
  Model model(const Config& config, const Runner& runner) const {
    auto tensors = std::make_shared<std::vector<Tensor>>();
    const auto state_dict = draw_state_dict(config, seed, dtype, false, *tensors);
    return Model::from_state_dict(config, state_dict, tensors, runner.options());
  }
  TensorView operator[](const std::string& name) const { return file.find(name); }
  const std::string& config() const { return file.metadata().at("config"); }

  Checkpoint file;
  std::uint64_t seed;
  DType dtype;
};

Transformer2DForwardOptions arguments(const Case& golden) {
  Transformer2DForwardOptions options;
  options.encoder_hidden_states = golden["encoder_hidden_states"];
  options.attention_mask = golden["attention_mask"];
  options.encoder_attention_mask = golden["encoder_attention_mask"];
  options.timestep = golden["timestep"];
  options.class_labels = golden["class_labels"];
  for (int i = 0; const TensorView images = golden["images." + std::to_string(i)]; ++i) {
    const TensorView scale = golden["scale." + std::to_string(i)];
    const auto* first = scale.data_as<double>();
    options.image_prompts.push_back({images, {first, first + scale.numel()}});
  }
  return options;
}

class SpatialGoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SpatialGoldenTest, EveryEngineAgreesWithDiffusers) {
  const Case golden("spatial/" + GetParam());
  const auto config = Transformer2DConfig::from_json(golden.config());
  for (const Runner& runner : runners()) {
    const auto model = golden.model<Transformer2DModel>(config, runner);
    EXPECT_EQ(model.isa(), runner.isa);
    expect_close(model.forward(golden["hidden_states"], arguments(golden)).sample, golden["sample"], config, runner,
                 golden["hidden_states"].dtype());
  }
}

INSTANTIATE_TEST_SUITE_P(All, SpatialGoldenTest, ::testing::ValuesIn(golden_names("spatial")),
                         [](const auto& info) { return info.param; });

class SpatioTemporalGoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SpatioTemporalGoldenTest, EveryEngineAgreesWithDiffusers) {
  const Case golden("spatio_temporal/" + GetParam());
  const auto config = TransformerSpatioTemporalConfig::from_json(golden.config());
  TransformerSpatioTemporalForwardOptions options;
  options.num_frames = std::stoll(golden.file.metadata().at("num_frames"));
  options.encoder_hidden_states = golden["encoder_hidden_states"];
  options.image_only_indicator = golden["image_only_indicator"];
  for (const Runner& runner : runners()) {
    const auto model = golden.model<TransformerSpatioTemporalModel>(config, runner);
    expect_close(model.forward(golden["hidden_states"], options).sample, golden["sample"], config, runner,
                 golden["hidden_states"].dtype());
  }
}

INSTANTIATE_TEST_SUITE_P(All, SpatioTemporalGoldenTest, ::testing::ValuesIn(golden_names("spatio_temporal")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kineograph::testing

// The spatial transformers of UNets as diffusers and the originals write them (tests/checkpoints): each module gives
// what diffusers computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "closeness.h"

namespace kineograph::testing {
namespace {

namespace fs = std::filesystem;

fs::path folder() { return fs::path(KINEOGRAPH_SOURCE_DIR) / "tests/checkpoints"; }

std::vector<std::string> file_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder() / "spatial")) names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

Tensor run(const Transformer2DModel& model, const TensorView& x, const TensorView& text) {
  return model.forward(x, {.encoder_hidden_states = text}).sample;
}
Tensor run(const TransformerSpatioTemporalModel& model, const TensorView& x, const TensorView& text) {
  return model.forward(x, {.num_frames = 2, .encoder_hidden_states = text}).sample;
}

class SpatialLayoutTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SpatialLayoutTest, EveryModuleGivesWhatDiffusersComputes) {
  const Checkpoint checkpoint = Checkpoint::open(folder() / GetParam());
  const Checkpoint expected = Checkpoint::open(folder() / "spatial" / (GetParam() + ".safetensors"));
  std::set<std::string> found, wanted;
  for (const auto& [name, value] : expected.tensors()) wanted.insert(name.substr(0, name.rfind('.')));
  for (const SpatialModule& module : spatial_modules(checkpoint)) {
    SCOPED_TRACE(module.name);
    found.insert(module.name);
    EXPECT_EQ(module.problem, "");
    const TensorView x = expected.find(module.name + ".hidden_states"), y = expected.find(module.name + ".sample");
    ASSERT_TRUE(x && y);
    const SpatialModel model = load_spatial(checkpoint, module.name);
    const Tensor sample = std::visit(
        [&](const auto& one) { return run(one, x, expected.find(module.name + ".encoder_hidden_states")); }, model);
    const Runner runner{std::visit([](const auto& one) { return std::string(one.engine()); }, model), "", DType::f32};
    expect_close(sample, y, common(module.config), runner, x.dtype());
  }
  EXPECT_EQ(found, wanted);
}

INSTANTIATE_TEST_SUITE_P(All, SpatialLayoutTest, ::testing::ValuesIn(file_names()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
});

TEST(SpatialModules, SayWhichClassTheyAreAndWhatIsAssumed) {
  const auto modules_of = [](const char* name) { return spatial_modules(Checkpoint::open(folder() / name)); };
  EXPECT_EQ(class_name(modules_of("unet_svd").front().config), "TransformerSpatioTemporalModel");
  const SpatialModule published = modules_of("sd15_original.safetensors").front();
  EXPECT_EQ(class_name(published.config), "Transformer2DModel");
  EXPECT_EQ(common(published.config).num_attention_heads, 8);
  EXPECT_EQ(published.assumed, (std::vector<std::string>{"num_attention_heads", "norm_num_groups"}));
  // UNet3DConditionModel means a head's width, UNet2DConditionModel a number of heads, by the same key.
  EXPECT_EQ(common(modules_of("unet_3d").front().config).attention_head_dim, 8);
  EXPECT_EQ(common(modules_of("unet_2d").front().config).num_attention_heads, 2);
  EXPECT_EQ(common(modules_of("unet_2d").back().config).num_attention_heads, 4);  // up_blocks count from the end
  EXPECT_TRUE(modules_of("motion_adapter").empty());
  EXPECT_TRUE(temporal_modules(Checkpoint::open(folder() / "unet_2d")).empty());
}

TEST(SpatialModules, AFolderOfOneModelIsThatModelAndNoTemporalOne) {
  const fs::path saved = fs::path(::testing::TempDir()) / "one_spatial_model";
  for (const bool linear : {false, true}) {
    Transformer2DConfig config;
    config.num_attention_heads = 2;
    config.attention_head_dim = 4;
    config.in_channels = 8;
    config.norm_num_groups = 2;
    config.use_linear_projection = linear;
    Transformer2DModel::from_config(config, 1).save_pretrained(saved);
    const Checkpoint checkpoint = Checkpoint::open(saved);
    ASSERT_EQ(spatial_modules(checkpoint).size(), 1u);
    EXPECT_EQ(std::get<Transformer2DModel>(load_spatial(checkpoint)).config().use_linear_projection, linear);
    EXPECT_TRUE(temporal_modules(checkpoint).empty());
  }
  fs::remove_all(saved);
}

TEST(SpatialModules, AWrongNameIsAnsweredWithTheRightOnes) {
  const Checkpoint checkpoint = Checkpoint::open(folder() / "unet_2d");
  try {
    load_spatial(checkpoint, "down_blocks.7.attentions.0");
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(error.expected().find("down_blocks.0.attentions.0"), std::string::npos);
  }
  EXPECT_THROW(load_spatial(Checkpoint::open(folder() / "motion_adapter")), CheckpointError);
}

}  // namespace
}  // namespace kineograph::testing

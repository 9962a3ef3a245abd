// The spatial transformers of UNets as diffusers and the originals write them (tests/checkpoints): each module gives
// what diffusers computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <set>

#include "base/same_values.h"
#include "closeness.h"
#include "model/widen.h"

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

/// A checkpoint's tensors with every matrix as 8-bit floats, with scales of all kinds beside them, and what each is
/// read as.
struct EightBit {
  Checkpoint origin;  ///< keeps the memory of what stays
  std::deque<Tensor> memory = {};
  std::vector<std::pair<std::string, TensorView>> stored = {};
  std::map<std::string, Tensor> read = {};

  explicit EightBit(const std::filesystem::path& path) : origin(Checkpoint::open(path)) {
    std::size_t count = 0;
    for (const auto& [name, view] : origin.tensors()) {
      const bool matrix = name.ends_with(".weight") && (view.rank() == 2 || view.rank() == 4);
      if (matrix)
        add(name, view.shape(), count++);
      else
        stored.emplace_back(name, view);
    }
  }

 private:
  void add(const std::string& name, const Shape& shape, std::size_t count) {
    const DType dtype = count % 2 == 0 ? DType::f8_e4m3fn : DType::f8_e5m2;
    Tensor& weight = memory.emplace_back(dtype, shape);
    for (std::int64_t i = 0; i < weight.numel(); ++i)  // 0x78 and above: NaN and infinity of one or the other
      static_cast<std::uint8_t*>(weight.data())[i] =
          static_cast<std::uint8_t>((i * 37 + static_cast<std::int64_t>(count)) % 0x78 + (i % 2) * 0x80);
    stored.emplace_back(name, weight);
    TensorView scale;
    if (count % 3 != 0) {
      Tensor& factors = memory.emplace_back(DType::f32, count % 3 == 1 ? Shape{} : Shape{shape[0], 1});
      for (std::int64_t i = 0; i < factors.numel(); ++i)
        factors.data_as<float>()[i] = 0.01f + 0.003f * static_cast<float>(i);
      scale = factors;
      const std::string layer = name.substr(0, name.rfind('.'));
      stored.emplace_back(layer + (count % 2 == 0 ? ".scale_weight" : ".weight_scale"), scale);
      stored.emplace_back(layer + ".input_scale", memory.emplace_back(convert(scale, DType::f32)));
    }
    read.emplace(name, model::widened(weight, scale));
  }
};

TEST(SpatialModules, InEightBitsAreReadAsF16TimesTheirScales) {
  const fs::path saved = fs::path(::testing::TempDir()) / "eight_bits";
  for (const char* name : {"unet_2d", "unet_svd", "sd15_original.safetensors", "svd_original"}) {
    if (!fs::exists(folder() / name)) continue;
    SCOPED_TRACE(name);
    const EightBit eight(folder() / name);
    fs::remove_all(saved);
    fs::create_directory(saved);
    if (fs::exists(folder() / name / "config.json"))
      fs::copy_file(folder() / name / "config.json", saved / "config.json");
    save_safetensors(saved / "diffusion_pytorch_model.safetensors", eight.stored);
    const Checkpoint checkpoint = Checkpoint::open(saved / "diffusion_pytorch_model.safetensors");
    const std::vector<SpatialModule> modules = spatial_modules(checkpoint);
    ASSERT_FALSE(modules.empty());
    for (const SpatialModule& module : modules) {
      EXPECT_EQ(module.problem, "") << module.name;
      EXPECT_FALSE(module.scales.empty());
      const SpatialModel model = load_spatial(checkpoint, module.name);
      const auto& parameters = std::visit(
          [](const auto& one) -> const auto& { return one.parameters(); }, model);
      for (std::size_t i = 0; i < module.state_dict.size(); ++i) {
        const auto& [parameter, view] = module.state_dict[i];
        const auto own = std::find_if(parameters.begin(), parameters.end(),
                                      [&parameter = parameter](const Parameter& p) { return p.name == parameter; });
        ASSERT_NE(own, parameters.end()) << parameter;
        const auto read = eight.read.find(module.sources[i]);
        EXPECT_TRUE(same_values(own->value, read == eight.read.end() ? view : read->second.view())) << parameter;
      }
    }
  }
  fs::remove_all(saved);
}

TEST(SpatialModules, SayWhichScaleIsNotKnown) {
  const fs::path saved = fs::path(::testing::TempDir()) / "wrong_scale.safetensors";
  EightBit eight(folder() / "sd15_original.safetensors");
  const Tensor wrong(DType::f32, {3});
  for (auto& [name, value] : eight.stored)
    if (name.ends_with(".scale_weight") || name.ends_with(".weight_scale")) value = wrong;
  save_safetensors(saved, eight.stored);
  const std::string problem = spatial_modules(Checkpoint::open(saved)).front().problem;
  EXPECT_NE(problem.find("a scale of f32 [3]"), std::string::npos) << problem;
  EXPECT_THROW(load_spatial(Checkpoint::open(saved)), CheckpointError);
  fs::remove(saved);
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

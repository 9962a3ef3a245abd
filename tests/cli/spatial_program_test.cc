// The program with Transformer2DModel and TransformerSpatioTemporalModel.
#include <cmath>
#include <nlohmann/json.hpp>

#include "program.h"

namespace kineograph {
namespace {

class SpatialProgramTest : public ProgramTest {
 protected:
  /// A Transformer2DModel of 8 channels for a text of 6, in the folder `module`.
  void make_spatial() const {
    Transformer2DConfig config;
    config.num_attention_heads = 2;
    config.attention_head_dim = 4;
    config.in_channels = 8;
    config.norm_num_groups = 4;
    config.cross_attention_dim = 6;
    Transformer2DModel::from_config(config, 1).save_pretrained(folder_ / "module");
  }

  static double distance(const Tensor& a, const Tensor& b) {
    double most = 0.0;
    for (std::int64_t i = 0; i < a.numel(); ++i)
      most = std::max(
          most, std::fabs(static_cast<double>(a.data_as<float>()[i]) - static_cast<double>(b.data_as<float>()[i])));
    return most;
  }

  static std::string checkpoint(const std::string& name) {
    return std::string(KINEOGRAPH_SOURCE_DIR) + "/tests/checkpoints/" + name;
  }
};

TEST_F(SpatialProgramTest, RunsAModelOfEitherClassAndVerifiesIt) {
  make_spatial();
  const Tensor x = noise({2, 8, 3, 2}), text = noise({2, 5, 6});
  Tensor mask(DType::boolean, {2, 5});
  mask.data_as<bool>()[0] = mask.data_as<bool>()[6] = true;
  save_safetensors(folder_ / "masked.safetensors",
                   {{"hidden_states", x}, {"encoder_hidden_states", text}, {"encoder_attention_mask", mask}});
  const Result run = sh("kineograph run --model module --input masked.safetensors --output out.safetensors --verify");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("verified against the reference engine"), std::string::npos) << run.err;
  EXPECT_EQ(run.err.find("--num-frames"), std::string::npos) << run.err;
  const auto model = Transformer2DModel::from_pretrained(folder_ / "module");
  const Tensor want = model.forward(x, {.encoder_hidden_states = text, .encoder_attention_mask = mask}).sample;
  EXPECT_LT(distance(load("out.safetensors", "sample"), want), 1e-5);
  EXPECT_GT(distance(model.forward(x, {.encoder_hidden_states = text}).sample, want), 1e-3);
}

TEST_F(SpatialProgramTest, RunsAModuleOfAUNetAsDiffusersDoes) {
  const Checkpoint expected = Checkpoint::open(checkpoint("spatial/svd_original.safetensors"));
  const std::string module = "up_blocks.0.attentions.1";
  save_safetensors(folder_ / "in.safetensors",
                   {{"hidden_states", expected.find(module + ".hidden_states")},
                    {"encoder_hidden_states", expected.find(module + ".encoder_hidden_states")}});
  const Result run = sh("kineograph run --model '" + checkpoint("svd_original") + "' --module " + module +
                        " --input in.safetensors --output out.safetensors --num-frames 2");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_LT(distance(load("out.safetensors", "sample"), convert(expected.find(module + ".sample"), DType::f32)), 1e-4);
  const Result wrong = sh("kineograph run --model '" + checkpoint("svd_original") +
                          "' --module mid_block.attentions.7 --input in.safetensors --output o.npy");
  EXPECT_NE(wrong.code, 0);
  EXPECT_NE(wrong.err.find(module), std::string::npos) << wrong.err;
}

TEST_F(SpatialProgramTest, ANameThatIsNotThereIsAnsweredWithTheModulesOfBothKinds) {
  save_safetensors(folder_ / "in.safetensors", {{"hidden_states", noise({2, 8, 3, 2})}});
  for (const char* place : {"unet_motion", "unet_motion/diffusion_pytorch_model.safetensors"})
    for (const char* module : {"", "--module mid_block.attentions.7"}) {
      const Result run =
          sh("kineograph run --model '" + checkpoint(place) + "' " + module + " --input in.safetensors --output o.npy");
      EXPECT_NE(run.code, 0);
      for (const char* known : {"down_blocks.0.attentions.0", "down_blocks.0.motion_modules.0"})
        EXPECT_NE(run.err.find(known), std::string::npos) << run.err;
    }
}

TEST_F(SpatialProgramTest, SetsOfWeightsAreChosenByTheirPath) {
  make_spatial();
  const Checkpoint first = Checkpoint::open(folder_ / "module");
  Transformer2DModel::from_config(Transformer2DConfig::from_file(folder_ / "module/config.json"), 2)
      .save_pretrained(folder_ / "other");
  const Checkpoint second = Checkpoint::open(folder_ / "other");
  std::vector<std::pair<std::string, TensorView>> both;
  for (const auto& [name, view] : first.tensors())
    both.emplace_back("weights.down_blocks.0.attentions.0." + name, view);
  for (const auto& [name, view] : second.tensors())
    both.emplace_back("average.down_blocks.0.attentions.0." + name, view);
  save_safetensors(folder_ / "both.safetensors", both);
  std::ofstream(folder_ / "config.json")
      << R"({"_class_name": "UNet2DConditionModel", "attention_head_dim": 2, "norm_num_groups": 4})";
  const Result listed = sh("kineograph inspect both.safetensors");
  ASSERT_EQ(listed.code, 0) << listed.err;
  for (const char* part : {"weights", "average", "--select"})
    EXPECT_NE(listed.out.find(part), std::string::npos) << listed.out;
  const Tensor x = noise({1, 8, 3, 2}), text = noise({1, 5, 6});
  save_safetensors(folder_ / "in.safetensors", {{"hidden_states", x}, {"encoder_hidden_states", text}});
  const std::string run = "kineograph run --model both.safetensors --input in.safetensors --output out.safetensors";
  EXPECT_NE(sh(run).code, 0);
  const Result chosen = sh(run + " --select average");
  ASSERT_EQ(chosen.code, 0) << chosen.err;
  const auto model = Transformer2DModel::from_pretrained(folder_ / "other");
  EXPECT_LT(distance(load("out.safetensors", "sample"), model.forward(x, {.encoder_hidden_states = text}).sample),
            1e-5);
}

TEST_F(SpatialProgramTest, AnArgumentThatTheClassHasNotIsSaidToBeWithoutEffect) {
  make_spatial();
  save_safetensors(folder_ / "in.safetensors", {{"hidden_states", noise({2, 8, 3, 2})},
                                                {"encoder_hidden_states", noise({2, 5, 6})},
                                                {"image_only_indicator", noise({1, 2})}});
  const Result run = sh("kineograph run --model module --input in.safetensors --output out.safetensors");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("image_only_indicator has no effect"), std::string::npos) << run.err;
}

TEST_F(SpatialProgramTest, InspectListsThemBesideTheTemporalOnes) {
  const Result text = sh("kineograph inspect '" + checkpoint("unet_motion") + "'");
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* part : {"down_blocks.0.attentions.0", "Transformer2DModel", "down_blocks.0.motion_modules.0"})
    EXPECT_NE(text.out.find(part), std::string::npos) << text.out;
  const Result json = sh("kineograph inspect --json '" + checkpoint("unet_svd") + "'");
  ASSERT_EQ(json.code, 0) << json.err;
  const auto modules = nlohmann::json::parse(json.out)["spatial_modules"];
  ASSERT_EQ(modules.size(), 2u);
  EXPECT_EQ(modules[0]["class"], "TransformerSpatioTemporalModel");
  EXPECT_EQ(modules[0]["config"]["num_attention_heads"], 2);
  EXPECT_EQ(modules[0]["problem"], "");
}

TEST_F(SpatialProgramTest, InitMakesPresetsAndConfigurationsOfEveryClass) {
  ASSERT_EQ(sh("kineograph init --preset sd15/320 --dtype f16 --output sd").code, 0);
  EXPECT_EQ(Transformer2DModel::from_pretrained(folder_ / "sd").config().cross_attention_dim, 768);
  make_spatial();
  ASSERT_EQ(sh("kineograph init --config module/config.json --seed 1 --output again").code, 0);
  EXPECT_EQ(content(folder_ / "again/diffusion_pytorch_model.safetensors"),
            content(folder_ / "module/diffusion_pytorch_model.safetensors"));
  std::ofstream(folder_ / "other.json") << R"({"_class_name": "UNet2DConditionModel"})";
  const Result other = sh("kineograph init --config other.json --output no");
  EXPECT_NE(other.code, 0);
  EXPECT_NE(other.err.find("UNet2DConditionModel"), std::string::npos) << other.err;
}

TEST_F(SpatialProgramTest, BenchMeasuresSpatialPresets) {
  const Result listed = sh("kineograph bench --list --json --shape SD-0s,svd/320@1x3x4x5:2");
  ASSERT_EQ(listed.code, 0) << listed.err;
  const auto shapes = nlohmann::json::parse(listed.out);
  ASSERT_EQ(shapes.size(), 2u);
  EXPECT_EQ(shapes[0]["channels"], 320);
  // Projections, two blocks of 36 I^2 and the first feed-forward of the temporal one; scores; keys and values of the
  // video's text, in both blocks.
  const double i = 320, tokens = 3 * 20;
  EXPECT_EQ(shapes[1]["flops"],
            tokens * (4 * i * i + 2 * (36 * i * i + 4 * i * 2) + 24 * i * i + 4 * i * 20 + 4 * i * 3) +
                2 * 4.0 * 2 * 1024 * i);
  const Result measured = sh("kineograph bench --json --repeats 1 --shape sd15/320@1x1x2x2:3");
  ASSERT_EQ(measured.code, 0) << measured.err;
  EXPECT_LE(nlohmann::json::parse(measured.out)[0]["max_error"].get<double>(), 1e-5);
  EXPECT_EQ(sh("kineograph bench --backward --shape SD-0s").code, 2);
}

}  // namespace
}  // namespace kineograph

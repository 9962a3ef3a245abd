// Transformer2DModel and TransformerSpatioTemporalModel: what their arguments mean, and what bad input gets.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

Transformer2DConfig small() {
  Transformer2DConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 8;
  config.norm_num_groups = 2;
  config.cross_attention_dim = 6;
  return config;
}

TransformerSpatioTemporalConfig small_video() {
  TransformerSpatioTemporalConfig config;
  config.num_attention_heads = 4;
  config.attention_head_dim = 8;
  config.in_channels = 32;
  config.cross_attention_dim = 6;
  return config;
}

Tensor draw(Shape shape, double shift = 0.0) {
  Tensor x(DType::f32, shape);
  for (std::int64_t i = 0; i < x.numel(); ++i)
    x.data_as<float>()[i] = static_cast<float>(std::sin(static_cast<double>(i * i % 97) + shift));
  return x;
}

/// Rows [first, first + count) of a contiguous tensor.
TensorView rows(const Tensor& x, std::int64_t first, std::int64_t count) {
  Dims shape = x.shape();
  const std::int64_t each = x.numel() / shape[0];
  shape[0] = count;
  return TensorView(
      static_cast<const std::byte*>(x.data()) + static_cast<std::size_t>(first * each) * size_of(x.dtype()), x.dtype(),
      shape);
}

bool same(const TensorView& a, const TensorView& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.numel()) * size_of(a.dtype())) == 0;
}

double distance(const Tensor& a, const Tensor& b) {
  double most = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i)
    most = std::max(most, std::fabs(static_cast<double>(a.data_as<float>()[i]) - b.data_as<float>()[i]));
  return most;
}

template <class Exception>
void expect_message(const std::function<void()>& body, const std::vector<std::string>& parts) {
  try {
    body();
    FAIL() << "nothing was thrown; expected a message with " << parts.front();
  } catch (const Exception& error) {
    for (const std::string& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Transformer2DConfig, EveryKeyIsKeptAndWrittenBack) {
  const char* text = R"({"num_attention_heads": 3, "attention_head_dim": 5, "in_channels": 12, "out_channels": 12,
    "num_layers": 2, "dropout": 0.25, "norm_num_groups": 4, "cross_attention_dim": 7, "attention_bias": true,
    "sample_size": 9, "num_vector_embeds": null, "patch_size": null, "activation_fn": "swiglu",
    "num_embeds_ada_norm": 11, "use_linear_projection": true, "only_cross_attention": true,
    "double_self_attention": true, "upcast_attention": true, "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": false, "norm_eps": 0.5, "attention_type": "default", "caption_channels": 8,
    "interpolation_scale": 1.5, "use_additional_conditions": false, "_diffusers_version": "0.42.0"})";
  const auto config = Transformer2DConfig::from_json(text);
  EXPECT_EQ(config.num_attention_heads, 3);
  EXPECT_EQ(config.norm_type, NormType::ada_norm_zero);
  EXPECT_EQ(config.norm_eps, 0.5);
  EXPECT_EQ(config.interpolation_scale, 1.5);
  EXPECT_EQ(config.use_additional_conditions, false);
  EXPECT_TRUE(config.only_cross_attention && config.upcast_attention && config.use_linear_projection);
  const std::string written = config.to_json();
  EXPECT_EQ(Transformer2DConfig::from_json(written).to_json(), written);
  for (const char* key : {"\"attention_type\": \"default\"", "\"patch_size\": null", "\"_class_name\""})
    EXPECT_NE(written.find(key), std::string::npos) << written;
  EXPECT_EQ(written.find("num_ip_adapters"), std::string::npos);
}

TEST(Transformer2DConfig, WhatIsNoModelOfAVideoUNetIsRefusedByName) {
  const auto refused = [](const char* text, const char* key) {
    expect_message<ConfigError>([&] { Transformer2DConfig::from_json(text, "here.json"); }, {"here.json", key});
  };
  refused(R"({"patch_size": 2})", "patch_size");
  refused(R"({"num_vector_embeds": 100})", "num_vector_embeds");
  refused(R"({"attention_type": "gated"})", "attention_type");
  refused(R"({"norm_type": "ada_norm_single"})", "ada_norm_single");
  refused(R"({"norm_type": "layer_norm_i2vgen"})", "layer_norm_i2vgen");
  refused(R"({"positional_embeddings": "sinusoidal"})", "positional_embeddings");
  refused(R"({"group_norm_scope": "clip"})", "group_norm_scope");
  Transformer2DConfig config = small();
  config.out_channels = 4;
  expect_message<ConfigError>([&] { config.validate(); }, {"out_channels", "in_channels 8"});
  config = small();
  config.num_vector_embeds = 5;
  expect_message<ConfigError>([&] { config.validate(); }, {"num_vector_embeds", "Transformer2DModel"});
  TransformerTemporalConfig temporal;
  temporal.in_channels = 32;
  temporal.norm_eps = 0.5;
  expect_message<ConfigError>([&] { temporal.validate(); }, {"norm_eps", "TransformerTemporalModel"});
}

TEST(Transformer2DConfig, AnOutdatedFileMeansAdaNorm) {
  EXPECT_EQ(Transformer2DConfig::from_json(R"({"num_embeds_ada_norm": 5})").norm_type, NormType::ada_norm);
}

TEST(TransformerSpatioTemporalConfig, HasTheArgumentsOfTheClassAndNoOthers) {
  const TransformerSpatioTemporalConfig config = small_video();
  EXPECT_EQ(TransformerSpatioTemporalConfig::from_json(config.to_json()).to_json(), config.to_json());
  EXPECT_EQ(TransformerSpatioTemporalConfig::from_json("{}").in_channels, 320);
  expect_message<ConfigError>([] { TransformerSpatioTemporalConfig::from_json(R"({"norm_num_group": 4})"); },
                              {"norm_num_group", "TransformerSpatioTemporalModel"});
  TransformerSpatioTemporalConfig other = small_video();
  other.norm_num_groups = 16;
  expect_message<ConfigError>([&] { other.validate(); }, {"norm_num_groups", "32"});
  other = small_video();
  other.attention_head_dim = 9;
  expect_message<ConfigError>([&] { other.validate(); }, {"in_channels 32", "36"});
}

TEST(Transformer2DModel, ARowDependsOnItselfAlone) {
  const auto model = Transformer2DModel::from_config(small(), 1);
  const Tensor x = draw({5, 8, 3, 4}), text = draw({5, 7, 6}, 1.0);
  const Tensor all = model.forward(x, {.encoder_hidden_states = text}).sample;
  for (std::int64_t n = 0; n < 5; ++n)
    EXPECT_TRUE(
        same(model.forward(rows(x, n, 1), {.encoder_hidden_states = rows(text, n, 1)}).sample, rows(all, n, 1)));
}

TEST(Transformer2DModel, FewerTextsThanRowsAreReadInTurn) {
  const auto model = Transformer2DModel::from_config(small(), 1);
  const Tensor x = draw({6, 8, 3, 4}), text = draw({2, 7, 6}, 1.0);
  const Tensor all = model.forward(x, {.encoder_hidden_states = text}).sample;
  for (std::int64_t video = 0; video < 2; ++video)
    EXPECT_TRUE(same(model.forward(rows(x, 3 * video, 3), {.encoder_hidden_states = rows(text, video, 1)}).sample,
                     rows(all, 3 * video, 3)));
  expect_message<ArgumentError>(
      [&] {
        model.forward(x, {.encoder_hidden_states = draw({4, 7, 6})});
      },
      {"encoder_hidden_states", "[4, 7, 6]", "divide 6"});
}

TEST(Transformer2DModel, AConvolutionAndALinearLayerAreTheSame) {
  Transformer2DConfig config = small();
  const auto convolution = Transformer2DModel::from_config(config, 3);
  config.use_linear_projection = true;
  const auto linear = Transformer2DModel::from_config(config, 3);
  EXPECT_EQ(convolution.parameters()[2].name, "proj_in.weight");
  EXPECT_EQ(convolution.parameters()[2].value.shape(), (Shape{8, 8, 1, 1}));
  EXPECT_EQ(linear.parameters()[2].value.shape(), (Shape{8, 8}));
  const Tensor x = draw({2, 8, 3, 4}), text = draw({2, 7, 6}, 1.0);
  EXPECT_TRUE(same(convolution.forward(x, {.encoder_hidden_states = text}).sample,
                   linear.forward(x, {.encoder_hidden_states = text}).sample));
}

TEST(Transformer2DModel, DiscardedKeysAreAsIfTheyWereNotThere) {
  const auto model = Transformer2DModel::from_config(small(), 1);
  const Tensor x = draw({2, 8, 3, 4}), text = draw({2, 7, 6}, 1.0);
  Tensor mask(DType::boolean, {2, 7}), bias(DType::f32, {2, 1, 7});
  Tensor kept(DType::f32, {2, 4, 6});
  for (std::int64_t n = 0; n < 2; ++n)
    for (std::int64_t s = 0; s < 7; ++s) {
      const bool keep = s % 2 == 0;
      mask.data_as<bool>()[n * 7 + s] = keep;
      bias.data_as<float>()[n * 7 + s] = keep ? 0.0f : -std::numeric_limits<float>::infinity();
      if (keep)
        std::memcpy(kept.data_as<float>() + (n * 4 + s / 2) * 6, text.data_as<float>() + (n * 7 + s) * 6,
                    6 * sizeof(float));
    }
  const Tensor want = model.forward(x, {.encoder_hidden_states = kept}).sample;
  const Tensor all = model.forward(x, {.encoder_hidden_states = text}).sample;
  EXPECT_GT(distance(want, all), 1e-3);
  EXPECT_LT(distance(model.forward(x, {.encoder_hidden_states = text, .encoder_attention_mask = mask}).sample, want),
            1e-5);
  EXPECT_LT(distance(model.forward(x, {.encoder_hidden_states = text, .encoder_attention_mask = bias}).sample, want),
            1e-5);
}

TEST(Transformer2DModel, AQueryWithoutKeysGetsZerosAndNoNaN) {
  const auto model = Transformer2DModel::from_config(small(), 1);
  const Tensor x = draw({1, 8, 2, 2}), text = draw({1, 3, 6}, 1.0);
  Tensor bias(DType::f32, {1, 1, 3});
  for (int s = 0; s < 3; ++s) bias.data_as<float>()[s] = -std::numeric_limits<float>::infinity();
  Tensor nothing = draw({1, 3, 6});
  std::memset(nothing.data(), 0, nothing.bytes());  // to_v has no bias: values of zero
  EXPECT_LT(distance(model.forward(x, {.encoder_hidden_states = text, .encoder_attention_mask = bias}).sample,
                     model.forward(x, {.encoder_hidden_states = nothing}).sample),
            1e-6);
}

TEST(Transformer2DModel, BadArgumentsSayWhere) {
  const auto model = Transformer2DModel::from_config(small(), 1);
  const Tensor x = draw({2, 8, 3, 4}), text = draw({2, 7, 6}, 1.0);
  const auto refused = [&](const TensorView& input, const Transformer2DForwardOptions& options,
                           const std::vector<std::string>& parts) {
    expect_message<ArgumentError>([&] { model.forward(input, options); }, parts);
  };
  refused(draw({2, 9, 3, 4}), {.encoder_hidden_states = text}, {"hidden_states", "(N, 8, H, W)", "[2, 9, 3, 4]"});
  refused(draw({2, 8, 3}), {.encoder_hidden_states = text}, {"hidden_states"});
  refused(x, {}, {"encoder_hidden_states", "cross_attention_dim 6", "none"});
  refused(x, {.encoder_hidden_states = draw({2, 7, 5})}, {"encoder_hidden_states", "[2, 7, 5]"});
  refused(x, {.encoder_hidden_states = draw({2, 0, 6})}, {"encoder_hidden_states"});
  refused(x, {.encoder_hidden_states = text, .attention_mask = draw({2, 7})}, {"attention_mask", "(2, 12)", "[2, 7]"});
  refused(x, {.encoder_hidden_states = text, .encoder_attention_mask = draw({1, 7})},
          {"encoder_attention_mask", "(2, 7)"});
  refused(x, {.encoder_hidden_states = text, .encoder_attention_mask = draw({2, 5, 7})}, {"encoder_attention_mask"});
  refused(x, {.encoder_hidden_states = text, .encoder_attention_mask = Tensor(DType::boolean, {2, 1, 7})},
          {"encoder_attention_mask", "bool"});
  refused(x, {.encoder_hidden_states = text, .image_prompts = {{draw({2, 3, 6})}}}, {"image_prompts", "0"});
  refused(x, {.encoder_hidden_states = text, .num_threads = -1}, {"num_threads"});
  Tensor sample(DType::f32, {2, 8, 3, 5});
  expect_message<ArgumentError>([&] { model.forward(x, sample.mutable_view(), {.encoder_hidden_states = text}); },
                                {"sample", "[2, 8, 3, 4]"});
  ModelOptions options;
  options.group_norm_scope = GroupNormScope::clip;
  expect_message<ArgumentError>([&] { Transformer2DModel::from_config(small(), 1, options); }, {"group_norm_scope"});
}

TEST(Transformer2DModel, IpAdaptersAddTheirAttention) {
  Transformer2DConfig config = small();
  config.num_ip_adapters = 1;
  config.num_layers = 2;
  const auto model = Transformer2DModel::from_config(config, 1);
  const Tensor x = draw({2, 8, 3, 4}), text = draw({2, 7, 6}, 1.0), images = draw({1, 4, 6}, 2.0);
  const auto with = [&](std::vector<ImagePrompt> prompts) {
    return model.forward(x, {.encoder_hidden_states = text, .image_prompts = std::move(prompts)}).sample;
  };
  const Tensor without = with({});
  EXPECT_LT(distance(with({{images, {0.0}}}), without), 1e-7);
  EXPECT_GT(distance(with({{images, {1.0}}}), without), 1e-3);
  EXPECT_GT(distance(with({{images, {1.0, 0.0}}}), with({{images, {1.0}}})), 1e-4);
  EXPECT_TRUE(same(with({{images, {1.0, 1.0}}}), with({{images}})));
  expect_message<ArgumentError>([&] { with({{images, {1.0, 0.0, 1.0}}}); }, {"image_prompts", "one a layer: 2"});
  expect_message<ArgumentError>([&] { with({{draw({2, 4, 5}), {1.0}}}); }, {"image_prompts", "[2, 4, 5]"});
}

TEST(Transformer2DModel, StridesThreadsAndMemoryOfTheCallerChangeNothing) {
  const auto model = Transformer2DModel::from_config(small(), 1);
  const Tensor text = draw({3, 7, 6}, 1.0);
  Tensor x = draw({3, 8, 3, 4}), last(DType::f32, {3, 3, 4, 8});
  const Tensor want = model.forward(x, {.encoder_hidden_states = text, .num_threads = 1}).sample;
  EXPECT_TRUE(same(model.forward(x, {.encoder_hidden_states = text, .num_threads = 4}).sample, want));
  for (std::int64_t i = 0; i < x.numel(); ++i)  // channels last
    last.data_as<float>()[(i / 96 * 12 + i % 12) * 8 + i / 12 % 8] = x.data_as<float>()[i];
  const TensorView strided(last.data(), DType::f32, {3, 8, 3, 4}, {96, 1, 32, 8});
  EXPECT_TRUE(same(model.forward(strided, {.encoder_hidden_states = text}).sample, want));
  model.forward(x, x.mutable_view(), {.encoder_hidden_states = text});
  EXPECT_TRUE(same(x, want));
  EXPECT_EQ(model.forward(Tensor(DType::f32, {0, 8, 3, 4}), {.encoder_hidden_states = text}).sample.numel(), 0);
}

template <class Model, class Config>
void expect_saved(const Config& config) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / ("saved_" + std::string(class_name(config)));
  const auto model = Model::from_config(config, 5, {}, DType::bf16);
  model.save_pretrained(folder);
  const auto again = Model::from_pretrained(folder);
  EXPECT_EQ(again.config().to_json(), config.to_json());
  EXPECT_EQ(again.dtype(), DType::bf16);
  ASSERT_EQ(again.parameters().size(), model.parameters().size());
  for (std::size_t i = 0; i < model.parameters().size(); ++i) {
    EXPECT_EQ(again.parameters()[i].name, model.parameters()[i].name);
    EXPECT_TRUE(same(again.parameters()[i].value, model.parameters()[i].value));
  }
  auto state_dict = model.parameters();
  state_dict.back().name = "proj_out.nonsense";
  expect_message<CheckpointError>([&] { Model::from_state_dict(config, state_dict, nullptr); },
                                  {"missing proj_out.bias", "unexpected proj_out.nonsense"});
  std::filesystem::remove_all(folder);
}

TEST(SavedModels, ComeBackBitForBitAndNameWhatIsMissing) {
  expect_saved<Transformer2DModel>(small());
  expect_saved<TransformerSpatioTemporalModel>(small_video());
}

TEST(TransformerSpatioTemporalModel, TextsAreReadByFrameOrByVideo) {
  const auto model = TransformerSpatioTemporalModel::from_config(small_video(), 1);
  const Tensor x = draw({6, 32, 2, 3}), text = draw({2, 5, 6}, 1.0);
  Tensor each(DType::f32, {6, 5, 6});
  for (std::int64_t n = 0; n < 6; ++n)
    std::memcpy(each.data_as<float>() + n * 30, text.data_as<float>() + n / 3 * 30, 30 * sizeof(float));
  const Tensor want = model.forward(x, {.num_frames = 3, .encoder_hidden_states = each}).sample;
  EXPECT_TRUE(same(model.forward(x, {.num_frames = 3, .encoder_hidden_states = text}).sample, want));
  for (std::int64_t video = 0; video < 2; ++video)
    EXPECT_TRUE(same(
        model.forward(rows(x, 3 * video, 3), {.num_frames = 3, .encoder_hidden_states = rows(text, video, 1)}).sample,
        rows(want, 3 * video, 3)));
}

TEST(TransformerSpatioTemporalModel, ImagesTakeNothingFromTheTemporalBlocks) {
  const auto model = TransformerSpatioTemporalModel::from_config(small_video(), 1);
  const Tensor x = draw({4, 32, 2, 3}), text = draw({4, 5, 6}, 1.0);
  Tensor images(DType::boolean, {2, 2});
  images.data_as<bool>()[1] = true;
  const Tensor video = model.forward(x, {.num_frames = 2, .encoder_hidden_states = text}).sample;
  const Tensor mixed = model.forward(x, {.encoder_hidden_states = text, .image_only_indicator = images}).sample;
  const Tensor alone = model
                           .forward(rows(x, 1, 1), {.encoder_hidden_states = rows(text, 1, 1),
                                                    .image_only_indicator =
                                                        [&] {
                                                          return TensorView(images.data_as<bool>() + 1, {1, 1});
                                                        }()})
                           .sample;
  EXPECT_TRUE(same(rows(mixed, 0, 1), rows(video, 0, 1)));
  EXPECT_FALSE(same(rows(mixed, 1, 1), rows(video, 1, 1)));
  EXPECT_TRUE(same(rows(mixed, 1, 1), alone));
}

TEST(TransformerSpatioTemporalModel, BadArgumentsSayWhere) {
  const auto model = TransformerSpatioTemporalModel::from_config(small_video(), 1);
  const Tensor x = draw({6, 32, 2, 3}), text = draw({6, 5, 6}, 1.0);
  const auto refused = [&](const TransformerSpatioTemporalForwardOptions& options,
                           const std::vector<std::string>& parts) {
    expect_message<ArgumentError>([&] { model.forward(x, options); }, parts);
  };
  refused({.num_frames = 4, .encoder_hidden_states = text}, {"hidden_states", "num_frames 4"});
  refused({.num_frames = -1, .encoder_hidden_states = text}, {"num_frames"});
  refused({.num_frames = 3}, {"encoder_hidden_states", "none"});
  refused({.num_frames = 3, .encoder_hidden_states = draw({4, 5, 6})}, {"encoder_hidden_states", "[4, 5, 6]"});
  refused({.num_frames = 3, .encoder_hidden_states = text, .image_only_indicator = draw({2, 2})},
          {"image_only_indicator", "num_frames 3"});
  refused({.encoder_hidden_states = text, .image_only_indicator = draw({3, 3})}, {"image_only_indicator", "(2, 3)"});
  refused({.encoder_hidden_states = text, .image_only_indicator = draw({1, 2, 3})}, {"image_only_indicator"});
}

}  // namespace
}  // namespace kineograph

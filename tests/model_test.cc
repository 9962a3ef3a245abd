// The configuration and the model's manners: what each key does, and what bad input gets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "calls.h"
#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

using testing::same;

TransformerTemporalConfig small() {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 8;
  config.norm_num_groups = 2;
  return config;
}

Tensor input(Shape shape) {
  Tensor x(DType::f32, shape);
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data_as<float>()[i] = std::sin(static_cast<float>(i * i % 97));
  return x;
}

Tensor run(const TransformerTemporalConfig& config, ForwardOptions options = {.num_frames = 3}) {
  return TransformerTemporalModel::from_config(config, 1)
      .forward(input({6, *config.in_channels, 2, 3}), options)
      .sample;
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

TEST(Config, EveryKeyChangesTheOutputOrIsRefused) {
  const Tensor base = run(small());
  const std::vector<std::pair<const char*, std::function<void(TransformerTemporalConfig&)>>> changes = {
      {"num_attention_heads", [](auto& c) { c.num_attention_heads = 4; }},
      {"attention_head_dim", [](auto& c) { c.attention_head_dim = 5; }},
      {"in_channels", [](auto& c) { c.in_channels = 10; }},
      {"num_layers", [](auto& c) { c.num_layers = 2; }},
      {"norm_num_groups", [](auto& c) { c.norm_num_groups = 4; }},
      {"attention_bias", [](auto& c) { c.attention_bias = true; }},
      {"activation_fn", [](auto& c) { c.activation_fn = Activation::swiglu; }},
      {"double_self_attention", [](auto& c) { c.double_self_attention = false; }},
      {"positional_embeddings",
       [](auto& c) {
         c.positional_embeddings = PositionalEmbeddings::sinusoidal;
         c.num_positional_embeddings = 4;
       }},
      {"group_norm_scope", [](auto& c) { c.group_norm_scope = GroupNormScope::frame; }},
  };
  for (const auto& [name, change] : changes) {
    TransformerTemporalConfig config = small();
    change(config);
    EXPECT_FALSE(same(run(config), base)) << name;
  }
  // Without effect here, as in diffusers: out_channels, dropout outside training, sample_size of continuous input, and
  // cross_attention_dim beside double_self_attention. A new model's norms are ones and zeros, so that
  // norm_elementwise_affine shows in the parameters.
  TransformerTemporalConfig config = small();
  config.out_channels = 5;
  config.dropout = 0.5;
  config.sample_size = 7;
  config.cross_attention_dim = 9;
  EXPECT_TRUE(same(run(config), base));
  config.norm_elementwise_affine = false;
  EXPECT_EQ(TransformerTemporalModel::from_config(config).parameters().size() + 6,
            TransformerTemporalModel::from_config(small()).parameters().size());
}

TEST(Config, RoundTripsAndKeepsPrivateKeys) {
  TransformerTemporalConfig config = small();
  config.cross_attention_dim = 12;
  config.norm_type = NormType::ada_norm;
  config.num_embeds_ada_norm = 7;
  config.private_keys = {{"_class_name", "\"TransformerTemporalModel\""}, {"_diffusers_version", "\"0.42.0\""}};
  EXPECT_EQ(TransformerTemporalConfig::from_json(config.to_json()), config);
}

TEST(Config, RefusesUnknownKeysByNameAndSuggestsOne) {
  expect_message<ConfigError>([] { TransformerTemporalConfig::from_json(R"({"num_layer": 2})", "here.json"); },
                              {"here.json", "num_layer", "Did you mean num_layers?"});
  std::string warning;
  TransformerTemporalConfig::from_json(R"({"num_layer": 2})", "here.json", UnknownKeys::warn,
                                       [&](std::string_view text) { warning = text; });
  EXPECT_NE(warning.find("num_layers"), std::string::npos);
}

TEST(Config, RefusesWrongValues) {
  for (const char* text : {"", "[]", "{", R"({"num_layers": "2"})", R"({"num_layers": 1.5})", R"({"dropout": true})",
                           R"({"attention_bias": 1})", R"({"activation_fn": "mish"})",
                           R"({"num_layers":1,"num_layers":2})", R"({"num_layers": 99999999999999999999})"})
    EXPECT_THROW(TransformerTemporalConfig::from_json(text), ConfigError) << text;
  const auto refused = [](auto change) {
    TransformerTemporalConfig config = small();
    change(config);
    EXPECT_THROW(TransformerTemporalModel::from_config(config), ConfigError);
  };
  refused([](auto& c) { c.norm_num_groups = 3; });
  refused([](auto& c) { c.num_attention_heads = 0; });
  refused([](auto& c) { c.attention_head_dim = std::int64_t{1} << 40; });
  refused([](auto& c) { c.in_channels.reset(); });
  refused([](auto& c) { c.norm_type = NormType::ada_norm; });
  refused([](auto& c) { c.positional_embeddings = PositionalEmbeddings::sinusoidal; });
  refused([](auto& c) { c.num_vector_embeds = 4; });
}

TEST(Model, NamesEveryTensorThatDoesNotFitAtOnce) {
  const auto model = TransformerTemporalModel::from_config(small());
  std::vector<Parameter> state = model.parameters();
  const Tensor wrong(DType::f32, {3}), integers(DType::i64, {8, 8});
  for (Parameter& parameter : state) {
    if (parameter.name == "norm.weight") parameter.value = wrong;
    if (parameter.name == "proj_in.weight") parameter.value = integers;
  }
  std::erase_if(state, [](const Parameter& parameter) { return parameter.name == "proj_out.bias"; });
  state.push_back({"stranger", wrong});
  expect_message<CheckpointError>(
      [&] { TransformerTemporalModel::from_state_dict(small(), state, nullptr); },
      {"missing proj_out.bias", "misshapen norm.weight", "wrong dtype of proj_in.weight", "unexpected stranger"});
}

TEST(Model, RefusesBadArgumentsBeforeAnyWork) {
  const auto model = TransformerTemporalModel::from_config(small());
  const Tensor good = input({6, 8, 2, 3});
  const auto refused = [&](const TensorView& x, const ForwardOptions& options, const std::vector<std::string>& parts) {
    expect_message<ArgumentError>([&] { model.forward(x, options); }, parts);
  };
  refused(good, {.num_frames = 4}, {"hidden_states", "divisible by num_frames 4", "6 rows"});
  refused(good, {.num_frames = 0}, {"num_frames", "1 or more"});
  refused(input({6, 9, 2, 3}), {.num_frames = 3}, {"(B*F, 8, H, W)", "[6, 9, 2, 3]"});
  refused(Tensor(DType::f64, {6, 8, 2, 3}), {.num_frames = 3}, {"f32, f16 or bf16", "f64"});
  refused(good, {.num_frames = 3, .encoder_hidden_states = input({5, 2, 8})}, {"encoder_hidden_states", "[5, 2, 8]"});
  refused(good, {.num_frames = 3, .encoder_hidden_states = input({2, 2, 7})}, {"encoder_hidden_states"});
  refused(good, {.num_frames = 3, .num_threads = -1}, {"num_threads"});
  Tensor sample(DType::f32, {6, 8, 2, 2});
  EXPECT_THROW(model.forward(good, sample.mutable_view(), {.num_frames = 3}), ArgumentError);
  Tensor memory(DType::f32, {7, 8, 2, 3});
  const TensorView shifted(memory.data_as<float>() + 1, Shape{6, 8, 2, 3});
  EXPECT_THROW(model.forward(shifted, MutableTensorView(memory.data_as<float>(), Shape{6, 8, 2, 3}), {.num_frames = 3}),
               ArgumentError);
  EXPECT_THROW(TransformerTemporalModel::from_config(small(), 0, {.engine = "gpu"}), ArgumentError);
  EXPECT_THROW(TransformerTemporalModel::from_config(small(), 0, {.isa = "avx1024"}), ArgumentError);
}

TEST(Model, RefusesFramesBeyondThePositions) {
  TransformerTemporalConfig config = small();
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = 2;
  expect_message<ArgumentError>([&] { run(config); }, {"num_positional_embeddings 2", "found 3"});
}

TEST(Model, RefusesConditioningOutOfRange) {
  TransformerTemporalConfig config = small();
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 5;
  const std::int64_t time = 10, unconditional = 5, beyond = 6;
  const TensorView t(&time, Shape{1}), last(&unconditional, Shape{1}), out(&beyond, Shape{1});
  EXPECT_NO_THROW(run(config, {.num_frames = 3, .timestep = t, .class_labels = last}));
  EXPECT_THROW(run(config, {.num_frames = 3, .timestep = t, .class_labels = out}), ArgumentError);
  EXPECT_THROW(run(config, {.num_frames = 3, .class_labels = last}), ArgumentError);
  config.norm_type = NormType::ada_norm;
  EXPECT_THROW(run(config, {.num_frames = 3, .timestep = last}), ArgumentError);
}

TEST(Model, WarnsOfWhatHasNoEffect) {
  const std::int64_t time = 1;
  const CrossAttentionKwargs kwargs{{"scale", 0.5}, {"nonsense", true}};
  std::string said;
  ForwardOptions options{.num_frames = 3};
  options.timestep = TensorView(&time, Shape{1});
  options.cross_attention_kwargs = &kwargs;
  options.on_warning = [&](std::string_view text) { said += std::string(text) + "\n"; };
  EXPECT_TRUE(same(run(small(), options), run(small())));
  for (const char* part : {"timestep has no effect", "scale is deprecated", "nonsense"})
    EXPECT_NE(said.find(part), std::string::npos) << said;
}

TEST(Model, NotANumberPassesThrough) {
  for (const char* engine : {"reference", "auto"}) {
    const auto model = TransformerTemporalModel::from_config(small(), 1, {.engine = engine});
    Tensor x = input({6, 8, 2, 3});
    x.data_as<float>()[5] = std::numeric_limits<float>::quiet_NaN();
    const Tensor y = model.forward(x, {.num_frames = 3}).sample;
    EXPECT_TRUE(std::isnan(y.data_as<float>()[5])) << engine;
    EXPECT_FALSE(std::isnan(y.data_as<float>()[y.numel() - 1])) << engine << ": the other video";
  }
}

TEST(Model, ZeroSizedAxesGiveAnEmptyOutput) {
  const auto model = TransformerTemporalModel::from_config(small());
  EXPECT_EQ(model.forward(Tensor(DType::f32, {6, 8, 0, 3}), {.num_frames = 3}).sample.numel(), 0);
  EXPECT_EQ(model.forward(Tensor(DType::f32, {0, 8, 2, 3}), {.num_frames = 3}).sample.numel(), 0);
}

TEST(Attention, TheRecorderSeesProbabilitiesAndChangesNothing) {
  for (const char* engine : {"reference", "auto"}) {
    const auto model = TransformerTemporalModel::from_config(small(), 1, {.engine = engine});
    const Tensor x = input({6, 8, 2, 3});
    const auto recorder = std::make_shared<AttentionRecorder>();
    AttentionProcessors processors;
    for (const std::string& name : model.attention_names()) processors[name] = recorder;
    ForwardOptions options{.num_frames = 3};
    const Tensor plain = model.forward(x, options).sample;
    options.attention_processors = &processors;
    const Tensor watched = model.forward(x, options).sample;
    for (std::int64_t i = 0; i < plain.numel(); ++i)
      ASSERT_NEAR(plain.data_as<float>()[i], watched.data_as<float>()[i], 2e-6) << engine;
    EXPECT_EQ(recorder->names().size(), 2u);
    const Tensor map = recorder->probabilities("transformer_blocks.0.attn2");
    ASSERT_EQ(map.shape(), (Shape{2, 6, 2, 3, 3}));
    for (std::int64_t row = 0; row < map.numel() / 3; ++row) {
      float sum = 0.0f;
      for (int s = 0; s < 3; ++s) sum += map.data_as<float>()[row * 3 + s];
      EXPECT_NEAR(sum, 1.0f, 1e-5f);
    }
    AttentionProcessors stranger{{"transformer_blocks.9.attn1", recorder}};
    options.attention_processors = &stranger;
    EXPECT_THROW(model.forward(x, options), ArgumentError);
  }
}

TEST(Attention, AProcessorReplacesTheAttention) {
  struct Zero : AttentionProcessor {
    void operator()(const AttentionCall& call) override {
      for (std::int64_t n = 0; n < call.output.size(0); ++n)
        for (std::int64_t h = 0; h < call.output.size(1); ++h)
          for (std::int64_t f = 0; f < call.output.size(2); ++f)
            for (std::int64_t e = 0; e < call.output.size(3); ++e) {
              const auto& s = call.output.strides();
              const std::int64_t at = n * s[0] + h * s[1] + f * s[2] + e * s[3];
              if (call.output.dtype() == DType::f64)
                static_cast<double*>(call.output.data())[at] = 0.0;
              else
                static_cast<float*>(call.output.data())[at] = 0.0f;
            }
    }
  };
  const AttentionProcessors processors{{"transformer_blocks.0.attn1", std::make_shared<Zero>()}};
  const ForwardOptions options{.num_frames = 3, .attention_processors = &processors};
  const Tensor x = input({6, 8, 2, 3});
  const Tensor a =
      TransformerTemporalModel::from_config(small(), 1, {.engine = "reference"}).forward(x, options).sample;
  const Tensor b = TransformerTemporalModel::from_config(small(), 1).forward(x, options).sample;
  EXPECT_FALSE(same(b, run(small())));
  for (std::int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(a.data_as<float>()[i], b.data_as<float>()[i], 2e-6);
}

TEST(Presets, AreValidAndNamedOnce) {
  std::vector<std::string_view> names;
  for (const Preset& preset : presets()) {
    EXPECT_NO_THROW(std::visit([](const auto& config) { config.validate(); }, preset.config)) << preset.name;
    EXPECT_EQ(std::count(names.begin(), names.end(), preset.name), 0);
    names.push_back(preset.name);
  }
  EXPECT_GE(names.size(), 20u);
}

}  // namespace
}  // namespace kineograph

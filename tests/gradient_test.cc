// backward: held to torch's autograd on diffusers' classes, and to finite differences.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "closeness.h"
#include "engine/dropout.h"
#include "golden_cases.h"
#include "model/seeded.h"

namespace kineograph::testing {
namespace {

Tensor drawn(std::uint64_t seed, const std::string& name, const Shape& shape) {
  Tensor values(DType::f32, shape);
  const model::SeededUniform uniform(seed, name);
  for (std::int64_t i = 0; i < values.numel(); ++i) values.data_as<float>()[i] = uniform(static_cast<std::uint64_t>(i));
  return values;
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i)
    sum += static_cast<double>(a.data_as<float>()[i]) * static_cast<double>(b.data_as<float>()[i]);
  return sum;
}

/// Every gradient of a call, by name; in the state dict's order, then the inputs'.
using Named = std::vector<std::pair<std::string, Tensor>>;

Named gradients_of(const TransformerTemporalModel& model, const TensorView& hidden_states, const Tensor& by_sample,
                   const ForwardOptions& arguments) {
  Named found;
  for (const Parameter& parameter : model.parameters())
    if (!parameter.name.ends_with(".pe"))
      found.emplace_back(parameter.name, Tensor(DType::f32, parameter.value.shape()));
  const bool continuous = !model.config().is_discrete();
  const bool conditioned = arguments.encoder_hidden_states && model.config().has_attn2();
  if (continuous) found.emplace_back("hidden_states", Tensor(DType::f32, hidden_states.shape()));
  if (arguments.encoder_hidden_states)
    found.emplace_back("encoder_hidden_states", Tensor(DType::f32, arguments.encoder_hidden_states.shape()));
  Gradients wanted;
  for (auto& [name, value] : found) {
    if (name == "hidden_states")
      wanted.hidden_states = value.mutable_view();
    else if (name == "encoder_hidden_states")
      wanted.encoder_hidden_states = conditioned ? value.mutable_view() : MutableTensorView();
    else
      wanted.parameters.push_back({name, value.mutable_view()});
  }
  model.backward(hidden_states, by_sample, wanted, arguments);
  return found;
}

class GradientTest : public ::testing::TestWithParam<std::string> {};

/// The projections are sums of n products with numbers in (-1, 1): their size is that of the gradient's norm, and f32's
/// rounding of each element moves them by less than 2^-24 of it. Gradients by what softmax or a norm cancels are small
/// differences of large terms: the tolerance is by the largest projection of the whole call.
TEST_P(GradientTest, EqualsTorchsAutograd) {
  const Golden golden = load_golden(golden_folder() / (GetParam() + ".safetensors"));
  static const Checkpoint all = Checkpoint::open(golden_folder() / "gradients.safetensors");
  const TensorView wanted = all.find(GetParam());
  ASSERT_TRUE(wanted);
  double scale = 0.0;
  for (std::int64_t i = 0; i < wanted.numel(); ++i) scale = std::max(scale, std::fabs(wanted.data_as<double>()[i]));
  for (const Runner& runner : runners()) {
    SCOPED_TRACE(runner.name());
    const TransformerTemporalModel model = golden.model(runner.options());
    const Shape shape = golden.sample().shape();
    const Named found =
        gradients_of(model, golden.hidden_states(), drawn(golden.seed, "sample_gradient", shape), golden.arguments());
    ASSERT_EQ(static_cast<std::int64_t>(found.size()), wanted.size(0));
    // As for the output: the timestep's sinusoid is off by up to 1000 epsilon. The fused engine adds the rounding of
    // its stages; twice the forward's factor, since the way back multiplies the errors of the way there by each other's
    // values. Where the way back multiplies bf16 pairs, what enters a product is rounded (see
    // CpuGradient.AgreesInBf16Too).
    const double stages = 4.0 + 10.0 * static_cast<double>(golden.config.num_layers);
    const bool pairs = runner.compute == DType::bf16 && runner.isa.ends_with("_bf16");
    // With logits of hundreds, a rounding to 8 bits decides which key is attended.
    if (pairs && GetParam() == "cross_large_logits") continue;
    const double rounding = runner.engine == "reference" ? 0.0 : pairs ? 0x1p-8 : 16.0 * 0x1p-23;
    const double allowed =
        ((golden.config.norm_type == NormType::ada_norm_zero ? 1e-4 : 4e-7) + stages * rounding) * scale;
    for (std::size_t row = 0; row < found.size(); ++row)
      for (std::size_t i = 0; i < 4; ++i) {
        const auto& [name, value] = found[row];
        const double projection = dot(value, drawn(golden.seed, name + "/" + std::to_string(i), value.shape()));
        EXPECT_NEAR(projection, wanted.data_as<double>()[row * 4 + i], allowed) << name;
      }
  }
}

/// All but those in windows, which have no backward.
std::vector<std::string> differentiable() {
  std::vector<std::string> names = golden_names();
  std::erase_if(names, [](const std::string& name) {
    return load_golden(golden_folder() / (name + ".safetensors")).context.has_value();
  });
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, GradientTest, ::testing::ValuesIn(differentiable()),
                         [](const auto& info) { return info.param; });

/// Two configurations that have every kind of layer between them.
TransformerTemporalConfig small_config(NormType norm_type) {
  TransformerTemporalConfig config;
  config.in_channels = 6;
  config.norm_num_groups = 3;
  config.num_attention_heads = 2;
  config.attention_head_dim = 5;
  config.num_layers = 2;
  config.dropout = 0.3;
  config.norm_type = norm_type;
  config.double_self_attention = false;
  config.cross_attention_dim = 7;
  if (norm_type != NormType::layer_norm) config.num_embeds_ada_norm = 5;
  if (norm_type == NormType::layer_norm) {
    config.positional_embeddings = PositionalEmbeddings::sinusoidal;
    config.num_positional_embeddings = 8;
  }
  return config;
}

class DifferenceTest : public ::testing::TestWithParam<NormType> {};

TEST_P(DifferenceTest, EqualsFiniteDifferencesInTrainingToo) {
  // Weights in f64, so that a step of 1e-6 leaves nine digits of the loss's change.
  const TransformerTemporalConfig config = small_config(GetParam());
  const TransformerTemporalModel drawn_model = TransformerTemporalModel::from_config(config, 3);
  std::map<std::string, Tensor> weights;
  for (const Parameter& parameter : drawn_model.parameters())
    weights.emplace(parameter.name, convert(parameter.value, DType::f64));
  ModelOptions options;
  options.engine = "reference";
  const auto model_now = [&] {
    std::vector<Parameter> state_dict;
    for (const auto& [name, value] : weights) state_dict.push_back({name, value.view()});
    return TransformerTemporalModel::from_state_dict(config, state_dict, nullptr, options);
  };
  const Tensor x = drawn(1, "x", {8, 6, 2, 3}), encoder = drawn(1, "encoder", {2, 3, 7});
  const std::int64_t timesteps[] = {1, 4}, labels[] = {2, 5};
  ForwardOptions arguments;
  arguments.num_frames = 4;
  arguments.encoder_hidden_states = encoder;
  if (GetParam() != NormType::layer_norm) arguments.timestep = TensorView(timesteps, {2});
  if (GetParam() == NormType::ada_norm_zero) arguments.class_labels = TensorView(labels, {2});
  arguments.training_seed = 77;
  const Tensor by_sample = drawn(1, "by_sample", {8, 6, 2, 3});
  const auto loss = [&] {
    // The output is rounded to f32: the loss's own noise is 1e-7 of its terms, so the step is wide and the difference
    // central, with an error of the step's square.
    return dot(model_now().forward(x, arguments).sample, by_sample);
  };
  const Named found = gradients_of(model_now(), x, by_sample, arguments);
  for (const auto& [name, gradient] : found) {
    const auto weight = weights.find(name);
    if (weight == weights.end()) continue;
    // Along a random direction, every element at once.
    const Tensor along = drawn(9, name, gradient.shape());
    const double expected = dot(gradient, along);
    constexpr double kStep = 1e-3;
    const auto shift = [&](double by) {
      for (std::int64_t i = 0; i < along.numel(); ++i)
        weight->second.data_as<double>()[i] += by * static_cast<double>(along.data_as<float>()[i]);
    };
    shift(kStep);
    const double above = loss();
    shift(-2 * kStep);
    const double below = loss();
    shift(kStep);
    EXPECT_NEAR((above - below) / (2 * kStep), expected, 2e-3 * (1.0 + std::fabs(expected))) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(NormTypes, DifferenceTest,
                         ::testing::Values(NormType::layer_norm, NormType::ada_norm, NormType::ada_norm_zero),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(DropoutTest, DrawsTheSameForTheSameSeedAndAtItsRate) {
  const engine::Dropout dropout(0.25, 11, 2, engine::DropoutSite::attn2),
      again(0.25, 11, 2, engine::DropoutSite::attn2);
  const engine::Dropout other(0.25, 11, 3, engine::DropoutSite::attn2);
  int dropped = 0, different = 0;
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) {
    EXPECT_EQ(dropout(i / 7, i % 7), again(i / 7, i % 7));
    dropped += dropout(i / 7, i % 7) == 0.0;
    different += dropout(i / 7, i % 7) != other(i / 7, i % 7);
  }
  // Five standard deviations of a binomial count.
  EXPECT_NEAR(dropped, kCount * 0.25, 5 * std::sqrt(kCount * 0.25 * 0.75));
  EXPECT_NEAR(different, kCount * 0.375, 5 * std::sqrt(kCount * 0.375 * 0.625));
}

TEST(DropoutTest, PhiloxGivesItsAuthorsKnownAnswers) {
  // Random123's kat_vectors for philox4x32-10.
  EXPECT_EQ(engine::philox({0, 0, 0, 0}, 0),
            (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(engine::philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(engine::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(BackwardTest, RefusesWhatDoesNotFit) {
  const TransformerTemporalModel model =
      TransformerTemporalModel::from_config(small_config(NormType::layer_norm), 1, {.engine = "reference"});
  const Tensor x = drawn(1, "x", {8, 6, 2, 3}), encoder = drawn(1, "encoder", {2, 3, 7});
  ForwardOptions arguments;
  arguments.num_frames = 4;
  arguments.encoder_hidden_states = encoder;
  EXPECT_THROW(model.backward(x, drawn(1, "y", {8, 6, 2, 2}), {}, arguments), ArgumentError);
  Tensor narrow(DType::f32, {3});
  Gradients wanted;
  wanted.parameters = {{"norm.weight", narrow.mutable_view()}};
  EXPECT_THROW(model.backward(x, x, wanted, arguments), ArgumentError);
  wanted.parameters = {{"norm.height", narrow.mutable_view()}};
  EXPECT_THROW(model.backward(x, x, wanted, arguments), ArgumentError);
  wanted.parameters = {{"transformer_blocks.0.pos_embed.pe", narrow.mutable_view()}};
  EXPECT_THROW(model.backward(x, x, wanted, arguments), ArgumentError);
  wanted.parameters.clear();
  wanted.hidden_states = narrow.mutable_view();
  EXPECT_THROW(model.backward(x, x, wanted, arguments), ArgumentError);
  Tensor by_sample = drawn(1, "y", {8, 6, 2, 3});
  wanted.hidden_states = by_sample.mutable_view();
  EXPECT_THROW(model.backward(x, by_sample, wanted, arguments), ArgumentError);
  wanted.hidden_states = {};
  wanted.parameters = {{"norm.weight", MutableTensorView(by_sample.data_as<float>(), {6})}};
  EXPECT_THROW(model.backward(x, by_sample, wanted, arguments), ArgumentError);
}

}  // namespace
}  // namespace kineograph::testing

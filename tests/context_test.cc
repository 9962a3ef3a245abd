// FreeNoise's windows: their places and weights, what they are the same as, and what bad ones get.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "engine/context_windows.h"
#include "kineograph/kineograph.h"
#include "random_case.h"

namespace kineograph::testing {
namespace {

using engine::context_windows;
using engine::frame_weights;

TEST(ContextWeights, AreRoundedToTheModelsDtype) {
  using Values = std::vector<double>;
  EXPECT_EQ(frame_weights(4, ContextWeighting::flat, DType::f32), (Values{1, 1, 1, 1}));
  EXPECT_EQ(frame_weights(4, ContextWeighting::pyramid, DType::f32), (Values{1, 2, 2, 1}));
  EXPECT_EQ(frame_weights(5, ContextWeighting::pyramid, DType::f16), (Values{1, 2, 3, 2, 1}));
  const auto sawtooth = [](std::int64_t length, DType dtype) {
    return frame_weights(length, ContextWeighting::delayed_reverse_sawtooth, dtype);
  };
  EXPECT_EQ(sawtooth(4, DType::bf16), (Values{0.010009765625, 2, 2, 1}));
  EXPECT_EQ(sawtooth(5, DType::f16), (Values{0.01000213623046875, 0.01000213623046875, 3, 2, 1}));
  EXPECT_EQ(sawtooth(4, DType::f32)[0], static_cast<double>(0.01f));
  // 257 is no bf16.
  EXPECT_EQ(frame_weights(514, ContextWeighting::pyramid, DType::bf16)[256], 256.0);
}

/// diffusers' own example: 25 frames, 16 every 4, whose last window counts for one frame.
TEST(ContextWindows, TheLastIsFlushWithTheEnd) {
  const auto made = context_windows({.length = 16, .stride = 4, .weighting = ContextWeighting::flat}, 25, DType::f32);
  ASSERT_EQ(made.windows.size(), 4u);
  EXPECT_EQ(made.windows[2].first, 8);
  EXPECT_EQ(made.windows[3].first, 9);
  EXPECT_EQ(made.windows[3].counted, 15);
  EXPECT_TRUE(context_windows({}, 16, DType::f32).empty());
  for (std::int64_t length = 1; length <= 9; ++length)
    for (std::int64_t stride = 1; stride <= length; ++stride)
      for (std::int64_t frames = length + 1; frames <= 24; ++frames) {
        const auto all = context_windows({length, stride, ContextWeighting::flat}, frames, DType::f32);
        std::vector<double> total(static_cast<std::size_t>(frames));
        for (std::size_t w = 0; w < all.windows.size(); ++w)
          for (std::int64_t i = 0; i < length; ++i)
            total[static_cast<std::size_t>(all.windows[w].first + i)] += all.share(w, i);
        for (const double sum : total)
          ASSERT_NEAR(sum, 1.0, 1e-12) << length << " every " << stride << " of " << frames;
      }
}

/// Windows that lie side by side, with statistics of each frame by itself, are clips of their own, whatever else the
/// configuration is: conditioned norms, discrete latents, conditionings.
TEST(ContextWindows, SideBySideAreClipsOfTheirOwn) {
  std::size_t compared = 0;
  for (std::uint64_t seed = 0; seed < 300 && compared < 25; ++seed) {
    RandomCase c(seed);
    const std::int64_t length = c.inputs.num_frames, videos = c.inputs.num_videos;
    // Two clips of one video share its conditioning, which is one for all here.
    if (c.inputs.encoder_hidden_states || videos != 2) continue;
    c.config.group_norm_scope = GroupNormScope::frame;
    for (auto* values : {&c.inputs.timestep}) std::fill(values->begin(), values->end(), 0.0);
    std::fill(c.inputs.class_labels.begin(), c.inputs.class_labels.end(), 0);
    const Tensor apart = c.run(engine::reference_engine(), DType::f32, "", 2);
    c.inputs.num_videos = 1;
    c.inputs.num_frames = 2 * length;
    if (!c.inputs.timestep.empty()) c.inputs.timestep.pop_back();
    if (!c.inputs.class_labels.empty()) c.inputs.class_labels.pop_back();
    c.inputs.context = context_windows({length, length, ContextWeighting::pyramid}, 2 * length, DType::f32);
    const Tensor together = c.run(engine::reference_engine(), DType::f32, "", 2);
    for (std::int64_t i = 0; i < apart.numel(); ++i)
      ASSERT_EQ(apart.data_as<double>()[i], together.data_as<double>()[i]) << "seed " << seed << ": " << c.describe();
    ++compared;
  }
  EXPECT_EQ(compared, 25u);
}

TransformerTemporalConfig small() {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 8;
  config.norm_num_groups = 2;
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = 4;
  return config;
}

Tensor clip(std::int64_t frames) {
  Tensor x(DType::f32, {frames, 8, 2, 3});
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data_as<float>()[i] = std::sin(static_cast<float>(i * i % 97));
  return x;
}

std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "nothing was refused";
}

TEST(ContextArguments, SayWhatWasExpected) {
  TransformerTemporalConfig config = small();
  config.dropout = 0.5;
  const auto model = TransformerTemporalModel::from_config(config);
  const Tensor x = clip(6);
  const auto forward = [&](ContextOptions context, std::optional<std::uint64_t> seed = {}) {
    return refusal([&] { model.forward(x, {.num_frames = 6, .context = context, .training_seed = seed}); });
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(has(forward({.length = 7}), "context.length: expected 1 to num_frames, 6, found 7"));
  EXPECT_TRUE(has(forward({.length = 0}), "context.length"));
  EXPECT_TRUE(has(forward({.length = 4, .stride = 5}), "context.stride: expected 1 to context.length, 4, found 5"));
  EXPECT_TRUE(has(forward({.length = 4, .stride = 0}), "context.stride"));
  EXPECT_TRUE(has(forward({.length = 5, .stride = 1}), "context.length: expected at most num_positional_embeddings 4"));
  EXPECT_TRUE(has(forward({.length = 4}, 3), "training with dropout"));
  EXPECT_TRUE(has(refusal([] { context_weighting("gauss"); }), "flat, pyramid, delayed_reverse_sawtooth"));
  EXPECT_TRUE(has(refusal([&] { model.backward(x, x, {}, {.num_frames = 6, .context = ContextOptions{.length = 4}}); }),
                  "context: expected none in backward"));
  // Positions are a window's own: four rows are enough for six frames.
  EXPECT_EQ(forward({.length = 4, .stride = 2}), "nothing was refused");
  EXPECT_TRUE(has(refusal([&] { model.forward(x, {.num_frames = 6}); }), "num_frames"));
}

TEST(ContextProcessors, EveryEngineCallsThemWindowByWindow) {
  TransformerTemporalConfig config = small();
  const Tensor x = clip(7);
  for (const std::string& engine : engines()) {
    const auto model = TransformerTemporalModel::from_config(config, 3, {.engine = engine});
    const auto recorder = std::make_shared<AttentionRecorder>();
    AttentionProcessors processors;
    for (const std::string& name : model.attention_names()) processors[name] = recorder;
    ForwardOptions options{.num_frames = 7, .context = ContextOptions{.length = 4, .stride = 2}};
    const Tensor plain = model.forward(x, options).sample;
    options.attention_processors = &processors;
    const Tensor recorded = model.forward(x, options).sample;
    for (std::int64_t i = 0; i < plain.numel(); ++i)
      ASSERT_NEAR(plain.data_as<float>()[i], recorded.data_as<float>()[i], 1e-5) << engine;
    const Tensor map = recorder->probabilities("transformer_blocks.0.attn2");  // three windows of four frames
    ASSERT_EQ(map.shape(), (Shape{1, 6, 2, 12, 4})) << engine;
    for (std::int64_t row = 0; row < map.numel() / 4; ++row) {
      double sum = 0.0;
      for (std::int64_t key = 0; key < 4; ++key) sum += static_cast<double>(map.data_as<float>()[row * 4 + key]);
      ASSERT_NEAR(sum, 1.0, 1e-5) << engine << ", row " << row;
    }
  }
}

// Of the image there are GroupNorm's moments of each row, three doubles a group, and nothing else.
TEST(ContextWorkspace, GrowsWithTheFramesAndWithRowsMomentsAlone) {
  TransformerTemporalConfig config = small();
  const auto model = TransformerTemporalModel::from_config(config);
  const auto bytes = [&](std::int64_t frames, std::int64_t side) {
    const Tensor x(DType::f32, {frames, 8, side, side});
    return model.workspace_bytes(
        x, {.num_frames = frames, .context = ContextOptions{.length = 4, .stride = 2}, .num_threads = 1});
  };
  const auto moments = static_cast<std::size_t>(32 * config.norm_num_groups) * 3 * sizeof(double);
  EXPECT_EQ(bytes(16, 32) + moments, bytes(16, 64));
  EXPECT_LE(bytes(64, 32) - bytes(32, 32), 2 * (bytes(32, 32) - bytes(16, 32)));
  EXPECT_LT(bytes(16, 32), bytes(32, 32));
}

}  // namespace
}  // namespace kineograph::testing

#include "video/train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace kineograph::video {
namespace {

TEST(Schedule, RisesThenFallsAsACosine) {
  const auto rate = [](std::int64_t step) { return learning_rate_at(step, 0.5, 10, 110); };
  EXPECT_DOUBLE_EQ(rate(0), 0.05);
  EXPECT_DOUBLE_EQ(rate(9), 0.5);
  EXPECT_DOUBLE_EQ(rate(10), 0.5);
  // Half way down a cosine is the middle of both ends, a quarter of the way cos(45 degrees).
  EXPECT_NEAR(rate(60), 0.25, 1e-15);
  EXPECT_NEAR(rate(35), 0.25 * (1 + std::numbers::sqrt2 / 2), 1e-15);
  EXPECT_NEAR(rate(109), 0, 2e-4);
  EXPECT_EQ(rate(110), 0);
  for (std::int64_t step = 11; step < 110; ++step) EXPECT_LT(rate(step), rate(step - 1));
  EXPECT_DOUBLE_EQ(learning_rate_at(0, 0.5, 0, 1), 0.5);
}

TEST(ClipNorm, ScalesToTheLimit) {
  std::vector<float> gradients{3, -4};
  EXPECT_DOUBLE_EQ(clip_norm(gradients, 0), 5);
  EXPECT_DOUBLE_EQ(clip_norm(gradients, 10), 5);
  EXPECT_EQ(gradients, (std::vector<float>{3, -4}));
  EXPECT_DOUBLE_EQ(clip_norm(gradients, 1), 5);
  EXPECT_FLOAT_EQ(gradients[0], 0.6f);
  EXPECT_FLOAT_EQ(gradients[1], -0.8f);
}

TEST(Decay, AppliesToWeightsOfProducts) {
  for (const char* name : {"proj_in.weight", "transformer_blocks.0.attn1.to_q.weight",
                           "transformer_blocks.0.ff.net.0.proj.weight", "transformer_blocks.0.norm1.linear.weight"})
    EXPECT_TRUE(decays(name, 2)) << name;
  EXPECT_FALSE(decays("proj_in.bias", 1));
  EXPECT_FALSE(decays("norm.weight", 1));
  EXPECT_FALSE(decays("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", 2));
  EXPECT_FALSE(decays("transformer_blocks.0.norm1.emb.weight", 2));
}

// Two steps by hand. Step 1: m = 0.1 g, v = 0.02 g^2; both corrections undo just that, so the step is the learning rate
// times the gradient's sign. Step 2 in double from the definition.
TEST(AdamW, FollowsTheDefinition) {
  AdamWOptions options;
  options.weight_decay = 0.1;
  AdamW optimizer(3, options);
  std::vector<float> weights{1, -2, 0.5f};
  const double rate = 0.01;
  const std::vector<float> first{0.3f, -2, 0}, second{-0.1f, 1, 4};
  optimizer.begin();
  optimizer.update(0, std::span(weights).subspan(0, 2), std::span(first).subspan(0, 2), rate, true);
  optimizer.update(2, std::span(weights).subspan(2), std::span(first).subspan(2), rate, false);
  EXPECT_NEAR(weights[0], 1 * (1 - 0.001) - 0.01, 1e-6);
  EXPECT_NEAR(weights[1], -2 * (1 - 0.001) + 0.01, 1e-6);
  EXPECT_EQ(weights[2], 0.5f);  // no gradient, no decay

  optimizer.begin();
  optimizer.update(0, std::span(weights).subspan(0, 2), std::span(second).subspan(0, 2), rate, true);
  optimizer.update(2, std::span(weights).subspan(2), std::span(second).subspan(2), rate, false);
  const double before[] = {1 * 0.999 - 0.01, -2 * 0.999 + 0.01, 0.5};
  for (int i = 0; i < 3; ++i) {
    const double m = 0.9 * 0.1 * first[static_cast<std::size_t>(i)] + 0.1 * second[static_cast<std::size_t>(i)];
    const double v = 0.98 * 0.02 * std::pow(first[static_cast<std::size_t>(i)], 2) +
                     0.02 * std::pow(second[static_cast<std::size_t>(i)], 2);
    const double step = rate * (m / (1 - 0.81)) / (std::sqrt(v / (1 - 0.9604)) + 1e-8);
    EXPECT_NEAR(weights[static_cast<std::size_t>(i)], before[i] * (i < 2 ? 0.999 : 1) - step, 2e-6) << i;
  }
  EXPECT_EQ(optimizer.steps, 2);
}

TEST(AverageOfWeights, ForgetsTheBeginningFirst) {
  std::vector<float> average{1};
  const std::vector<float> weights{2};
  average_weights(average, weights, 0.5, 0);  // keeps (1 + 0) / (10 + 0)
  EXPECT_FLOAT_EQ(average[0], 1.9f);
  average_weights(average, weights, 0.5, 1000);  // keeps 0.5
  EXPECT_FLOAT_EQ(average[0], 1.95f);
}

}  // namespace
}  // namespace kineograph::video

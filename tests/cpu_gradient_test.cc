// The fused engine's backward against the reference's: every instruction set, random configurations.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <thread>

#include "kineograph/kineograph.h"
#include "model/parameters.h"
#include "random_gradient.h"

namespace kineograph::testing {
namespace {

using engine::cpu_engine;
using engine::reference_engine;

constexpr std::uint64_t kCases = 150;

double largest(const Tensor& values) {
  const Tensor doubles = convert(values, DType::f64);
  double most = 0.0;
  for (std::int64_t i = 0; i < doubles.numel(); ++i) most = std::max(most, std::fabs(doubles.data_as<double>()[i]));
  return most;
}

class CpuGradient : public ::testing::TestWithParam<std::string> {};

/// A gradient is a sum over tokens of products, each off by the f32 rounding of the stages before it. Where softmax or
/// a norm cancels most of a gradient, what is left keeps the error of the terms: those are of the size of the whole
/// call's largest gradient, over the tokens that average it.
TEST_P(CpuGradient, AgreesWithTheReferenceOnRandomCases) {
  const std::uint64_t first = first_case(GetParam()), end = first + num_cases(kCases);
  for (std::uint64_t seed = first; seed < end; ++seed) {
    RandomCase c(seed);
    // LayerNorm of two or three channels is nearly a sign: its gradient magnifies any rounding without bound.
    if (c.config.inner_dim() < 4) continue;
    make_trained(c, seed);
    const auto exact = reference_engine().prepare(c.config, c.weights, {});
    const auto plan = cpu_engine()->prepare(c.config, c.weights, {DType::f32, GetParam()});
    constexpr int kThreads[] = {1, 2, 3, 8};
    const auto want = gradients_of(c, *exact, seed, 2), got = gradients_of(c, *plan, seed, kThreads[seed % 4]);
    ASSERT_EQ(want.size(), got.size());
    double most = 0.0;
    for (const Named& named : want) most = std::max(most, largest(named.value));
    const double stages = 4.0 + 10.0 * static_cast<double>(c.config.num_layers);
    for (std::size_t i = 0; i < want.size(); ++i) {
      const Tensor a = convert(want[i].value, DType::f64), b = convert(got[i].value, DType::f64);
      const double scale = largest(want[i].value);
      const DType stored = want[i].value.dtype();
      // The input's gradient passes through its own memory once on the way: two roundings.
      const double rounding = stored == DType::bf16 ? 0x1p-7 : stored == DType::f16 ? 0x1p-10 : 0.0;
      const double allowed = 8.0 * 0x1p-23 * stages * (scale + 0.25 * most) + 2.0 * rounding * scale;
      for (std::int64_t k = 0; k < a.numel(); ++k)
        ASSERT_NEAR(a.data_as<double>()[k], b.data_as<double>()[k], allowed)
            << want[i].name << " [" << k << "], seed " << seed << ": " << c.describe();
    }
  }
}

TEST_P(CpuGradient, ForwardWithDropoutAgreesToo) {
  for (std::uint64_t seed = 0; seed < 60; seed += 3) {
    RandomCase c(seed);
    make_trained(c, seed);
    const Tensor want = c.run(reference_engine(), DType::f32, "", 2),
                 got = c.run(*cpu_engine(), DType::f32, GetParam(), 2);
    const double scale = largest(want);
    const double stored = c.make_output().dtype() == DType::f32 ? 0x1p-20 : 0x1p-7;
    for (std::int64_t i = 0; i < want.numel(); ++i)
      ASSERT_NEAR(want.data_as<double>()[i], got.data_as<double>()[i], 16 * stored * scale) << c.describe();
  }
}

TEST_P(CpuGradient, GivesTheSameBitsForAnyNumberOfThreads) {
  for (std::uint64_t seed = 1000; seed < 1020; ++seed) {
    RandomCase c(seed);
    make_trained(c, seed);
    const auto plan = cpu_engine()->prepare(c.config, c.weights, {DType::f32, GetParam()});
    const auto want = gradients_of(c, *plan, seed, 1);
    for (const int threads : {2, 3, 4, 7, 16}) {
      const auto got = gradients_of(c, *plan, seed, threads);
      for (std::size_t i = 0; i < want.size(); ++i)
        ASSERT_EQ(std::memcmp(want[i].value.data(), got[i].value.data(), want[i].value.bytes()), 0)
            << want[i].name << ", " << threads << " threads, " << c.describe();
    }
  }
}

/// With native dot products or a matrix unit the way back multiplies bf16 pairs: every stage rounds both factors to 8
/// bits, and sums of tokens average that. Elsewhere it is f32, to the bit.
TEST_P(CpuGradient, AgreesInBf16Too) {
  const bool native = GetParam().ends_with("_bf16");
  std::size_t differ = 0;  // cases
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    RandomCase c(seed);
    // See above; and a few channels more, as roundings are larger.
    if (c.config.inner_dim() < 8) continue;
    make_trained(c, seed);
    const auto plan = cpu_engine()->prepare(c.config, c.weights, {DType::f32, GetParam()});
    const auto half = cpu_engine()->prepare(c.config, c.weights, {DType::bf16, GetParam()});
    const auto want = gradients_of(c, *plan, seed, 2),
               got = gradients_of(c, *half, seed, 1 + static_cast<int>(seed % 3));
    double most = 0.0;
    for (const Named& named : want) most = std::max(most, largest(named.value));
    const double stages = 4.0 + 10.0 * static_cast<double>(c.config.num_layers);
    bool same = true;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const bool equal = std::memcmp(want[i].value.data(), got[i].value.data(), want[i].value.bytes()) == 0;
      same = same && equal;
      if (!native) {
        ASSERT_TRUE(equal) << want[i].name << ", " << c.describe();
        continue;
      }
      const Tensor a = convert(want[i].value, DType::f64), b = convert(got[i].value, DType::f64);
      const double allowed = 0x1p-10 * stages * (largest(want[i].value) + 0.25 * most);
      for (std::int64_t k = 0; k < a.numel(); ++k)
        ASSERT_NEAR(a.data_as<double>()[k], b.data_as<double>()[k], allowed)
            << want[i].name << " [" << k << "], seed " << seed << ": " << c.describe();
    }
    differ += same ? 0 : 1;
  }
  EXPECT_EQ(differ > 60, native) << differ << " cases differ from f32: which arithmetic ran?";
}

/// Gradients of everything, by several numbers of threads, to the bit; a video of `height` x 24 pixels and 4 frames.
void expect_the_same_bits(const TransformerTemporalConfig& config, std::int64_t height,
                          std::initializer_list<int> threads) {
  const auto model = TransformerTemporalModel::from_config(config, 1, {.engine = "cpu"});
  std::mt19937 random(5);
  Tensor x(DType::f32, {8, *config.in_channels, height, 24}), by_sample(DType::f32, x.shape());
  for (Tensor* tensor : {&x, &by_sample})
    for (std::int64_t i = 0; i < tensor->numel(); ++i)
      tensor->data_as<float>()[i] = static_cast<float>(random()) * 0x1p-31f - 1.0f;
  const auto gradients = [&](int count) {
    std::vector<Tensor> found;
    found.emplace_back(DType::f32, x.shape());
    Gradients wanted;
    wanted.hidden_states = found.back().mutable_view();
    for (const Parameter& parameter : model.parameters()) {
      found.emplace_back(DType::f32, parameter.value.shape());
      wanted.parameters.push_back({parameter.name, found.back().mutable_view()});
    }
    model.backward(x, by_sample, wanted, {.num_frames = 4, .num_threads = count});
    return found;
  };
  const auto one = gradients(1);
  for (const int count : threads) {
    const auto many = gradients(count);
    for (std::size_t i = 0; i < one.size(); ++i)
      ASSERT_EQ(std::memcmp(one[i].data(), many[i].data(), one[i].bytes()), 0)
          << "gradient " << i << ", " << count << " threads, height " << height;
  }
}

/// 540 hidden columns are cut into 272 and 268: threads that are a chunk apart on one tile must not meet in memory.
/// Five pixels' height is one tile of each of two videos, which more threads than two share.
TEST(CpuGradientThreads, UnequalChunksStayApart) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 3;
  config.attention_head_dim = 45;
  config.in_channels = 135;
  config.norm_num_groups = 5;
  config.num_layers = 2;
  expect_the_same_bits(config, 24, {2, 2, 4, 2});
  expect_the_same_bits(config, 5, {4, 4, 6, 6, 4, 6});
}

/// Tiles take their turns: many small ones, so that they are often in each other's way.
TEST(CpuGradientThreads, ManyTilesAddInOrder) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.in_channels = 16;
  config.norm_num_groups = 4;
  expect_the_same_bits(config, 163, {2, 3, 4, 5, 8, 16, 4, 4, 4});
}

INSTANTIATE_TEST_SUITE_P(All, CpuGradient, ::testing::ValuesIn(cpu_engine()->instruction_sets()),
                         [](const auto& info) { return info.param; });

TEST(CpuGradientConcurrency, ManyCallsAtOnceAreEachRight) {
  const RandomCase c(11);
  const auto plan = cpu_engine()->prepare(c.config, c.weights, {});
  const auto want = gradients_of(c, *plan, 11, 1);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int repeat = 0; repeat < 5; ++repeat) {
        const auto got = gradients_of(c, *plan, 11, 1 + static_cast<int>(t) % 3);
        for (std::size_t i = 0; i < want.size(); ++i)
          wrong[t] += std::memcmp(want[i].value.data(), got[i].value.data(), want[i].value.bytes()) != 0;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) EXPECT_EQ(count, 0);
}

/// Frozen parameters are not written, and what is wanted does not depend on what else is.
TEST(CpuGradientFrozen, WhatIsWantedAloneIsTheSame) {
  for (const std::uint64_t seed : {1, 2, 4, 5, 7, 8, 10}) {
    const RandomCase c(seed);
    const auto plan = cpu_engine()->prepare(c.config, c.weights, {});
    const auto all = gradients_of(c, *plan, seed, 2);
    for (const Named& one : all) {
      engine::Gradients wanted;
      Tensor value(one.value.dtype(), one.value.shape());
      for (const auto& slot : model::parameter_slots(c.config, wanted.weights))
        if (slot.name == one.name) *slot.view = value.mutable_view();
      if (one.name == "hidden_states") wanted.hidden_states = value.mutable_view();
      if (one.name == "encoder_hidden_states") wanted.encoder_hidden_states = value.mutable_view();
      plan->backward(c.inputs, sample_gradient(c, seed), wanted);
      EXPECT_EQ(std::memcmp(value.data(), one.value.data(), value.bytes()), 0) << one.name << ", " << c.describe();
    }
  }
}

}  // namespace
}  // namespace kineograph::testing

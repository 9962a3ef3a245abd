// The fused engine against the reference: every instruction set, f32 and bf16, random configurations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "kineograph/kineograph.h"
#include "random_case.h"

namespace kineograph::testing {
namespace {

using engine::cpu_engine;
using engine::reference_engine;

constexpr std::uint64_t kCases = 250;

::testing::AssertionResult agree(const RandomCase& c, DType dtype, const Tensor& want, const Tensor& got) {
  const std::string problem = disagreement(c, dtype, want, got);
  return problem.empty() ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << problem;
}

class CpuEngine : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(CpuEngine, AgreesWithTheReferenceOnRandomCases) {
  const auto& [isa, dtype] = GetParam();
  const std::uint64_t first = first_case(isa, dtype), end = first + num_cases(kCases);
  for (std::uint64_t seed = first; seed < end; ++seed) {
    RandomCase c(seed);
    // LayerNorm of two channels is their sign alone, which any rounding turns where they are nearly equal.
    if (c.config.inner_dim() <= 2) continue;
    c.draw_context();
    const Tensor want = c.run(reference_engine(), DType::f32, "", 2);
    const Tensor got = c.run(*cpu_engine(), dtype, isa, 1 + static_cast<int>(seed % 3), seed % 5 == 0);
    ASSERT_TRUE(agree(c, dtype, want, got)) << "seed " << seed;
  }
}

// Moments are taken about the first channels' mean: it may be far from all others'.
TEST_P(CpuEngine, NormalisesChannelsFarFromTheOthers) {
  const auto& [isa, dtype] = GetParam();
  if (dtype != DType::f32) return;
  std::vector<int> checked(3, 0);
  for (std::uint64_t seed = 0; seed < 4000 && std::ranges::min(checked) < 5; ++seed) {
    RandomCase c(seed);
    if (c.config.is_discrete() || c.config.inner_dim() < 70) continue;
    const std::size_t pattern = seed % 3;
    Tensor bias(DType::f32, {c.config.inner_dim()});
    for (std::int64_t i = 0; i < bias.numel(); ++i) {
      const bool far = pattern == 0 ? i == 0 : pattern == 1 ? i < 64 : true;
      bias.data_as<float>()[i] = far ? 3000.0f : 0.0f;
    }
    c.weights.proj_in.bias = bias;
    const Tensor want = c.run(reference_engine(), DType::f32, "", 2);
    const Tensor got = c.run(*cpu_engine(), dtype, isa, 2);
    EXPECT_TRUE(agree(c, dtype, want, got)) << "pattern " << pattern;
    ++checked[pattern];
  }
  EXPECT_EQ(std::ranges::min(checked), 5);
}

TEST_P(CpuEngine, GivesTheSameBitsForAnyNumberOfThreads) {
  const auto& [isa, dtype] = GetParam();
  for (std::uint64_t seed = 1000; seed < 1040; ++seed) {
    RandomCase c(seed);
    c.draw_context();
    const Tensor one = c.run(*cpu_engine(), dtype, isa, 1);
    for (int threads : {2, 3, 7}) {
      const Tensor many = c.run(*cpu_engine(), dtype, isa, threads);
      ASSERT_EQ(std::memcmp(one.data(), many.data(), one.bytes()), 0) << threads << " threads, " << c.describe();
    }
  }
}

TEST_P(CpuEngine, RunsTheInstructionSetItWasAskedFor) {
  const auto& [isa, dtype] = GetParam();
  const RandomCase c(3);
  const auto choice = cpu_engine()->choose(c.config, c.weights, {dtype, isa});
  ASSERT_TRUE(choice.has_value());
  EXPECT_EQ(choice->isa, isa);
  EXPECT_EQ(choice->compute_dtype, dtype);
}

std::vector<std::string> isas() { return cpu_engine()->instruction_sets(); }

INSTANTIATE_TEST_SUITE_P(All, CpuEngine,
                         ::testing::Combine(::testing::ValuesIn(isas()), ::testing::Values(DType::f32, DType::bf16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::string(name_of(std::get<1>(info.param)));
                         });

TEST(CpuEngineConcurrency, ManyCallsAtOnceAreEachRight) {
  const RandomCase c(11);
  const auto plan = cpu_engine()->prepare(c.config, c.weights, {DType::f32, ""});
  Tensor want = c.make_output();
  plan->forward(c.inputs, want.mutable_view());
  std::vector<std::thread> threads;
  std::vector<int> wrong(6, 0);
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int repeat = 0; repeat < 10; ++repeat) {
        engine::Inputs inputs = c.inputs;
        inputs.num_threads = 1 + static_cast<int>(t) % 3;
        Tensor got = c.make_output();
        plan->forward(inputs, got.mutable_view());
        wrong[t] += std::memcmp(want.data(), got.data(), want.bytes()) != 0;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (int count : wrong) EXPECT_EQ(count, 0);
}

// 2 x 192 x 192 sequences are more than the 65,535 that a GPU's grid or a 16-bit index holds.
TEST(CpuEngineGrid, EverySequenceOfALargeImageIsRight) {
  constexpr std::int64_t kFrames = 4;
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 8;
  config.norm_num_groups = 2;
  Tensor x(DType::f32, {2 * kFrames, config.in_channels.value(), 192, 192});
  for (std::int64_t i = 0; i < x.numel(); ++i)
    x.data_as<float>()[i] = static_cast<float>(i * 2654435761 % 4093) / 1024.0f - 2.0f;
  const auto run = [&](const std::string& engine) {
    return TransformerTemporalModel::from_config(config, 5, {.engine = engine})
        .forward(x, {.num_frames = kFrames})
        .sample;
  };
  const Tensor want = run("reference"), got = run("cpu");
  for (std::int64_t i = 0; i < want.numel(); ++i)
    ASSERT_NEAR(want.data_as<float>()[i], got.data_as<float>()[i], 1e-5) << "element " << i;
}

TEST(CpuEngineErrors, AnUnknownInstructionSetIsRefusedByName) {
  const RandomCase c(3);
  EXPECT_THROW(cpu_engine()->prepare(c.config, c.weights, {DType::f32, "avx1024"}), ArgumentError);
}

}  // namespace
}  // namespace kineograph::testing

// The fused engine's walks over rows against the reference: both models, every instruction set, f32 and bf16.
#include <gtest/gtest.h>

#include <cstring>

#include "agreement.h"
#include "kineograph/kineograph.h"
#include "random_rows_case.h"

namespace kineograph::testing {
namespace {

using engine::cpu_engine;
using engine::reference_engine;

constexpr std::uint64_t kCases = 200;

/// Whether every element is within the tolerance of agreement.h. A layer of TransformerSpatioTemporalModel has the
/// stages of two blocks and one more feed-forward.
::testing::AssertionResult agree(const RandomRowsCase& c, DType dtype, const Tensor& want, const Tensor& got) {
  const double stages = 4.0 + (c.weights.temporal_blocks.empty() ? 5.0 : 11.0) * static_cast<double>(c.num_layers());
  const TensorView& input = c.inputs.hidden_states;
  const std::string problem = disagreement({input, input.dtype(), dtype, stages}, want, got);
  if (problem.empty()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << problem << "\n" << c.describe();
}

class CpuRows : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(CpuRows, AgreeWithTheReferenceOnRandomCases) {
  const auto& [isa, dtype] = GetParam();
  int failures = 0;
  const std::uint64_t first = first_case(isa, dtype), end = first + 2 * num_cases(kCases);
  for (std::uint64_t seed = first; seed < end && failures < 10; ++seed) {
    const RandomRowsCase c(seed);
    // LayerNorm of two channels is their sign alone, which any rounding turns where they are nearly equal.
    if (common(c.config).inner_dim() <= 2) continue;
    const Tensor want = c.run(reference_engine(), DType::f32, "", 2);
    const Tensor got = c.run(*cpu_engine(), dtype, isa, 1 + static_cast<int>(seed % 3), seed % 5 == 0);
    const auto agrees = agree(c, dtype, want, got);
    EXPECT_TRUE(agrees) << "seed " << seed;
    failures += !agrees;
  }
}

TEST_P(CpuRows, GiveTheSameBitsForAnyNumberOfThreads) {
  const auto& [isa, dtype] = GetParam();
  for (std::uint64_t seed = 5000; seed < 5040; ++seed) {
    const RandomRowsCase c(seed);
    const Tensor one = c.run(*cpu_engine(), dtype, isa, 1);
    for (int threads : {2, 3, 7}) {
      const Tensor many = c.run(*cpu_engine(), dtype, isa, threads);
      ASSERT_EQ(std::memcmp(one.data(), many.data(), one.bytes()), 0) << threads << " threads, " << c.describe();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuRows,
                         ::testing::Combine(::testing::ValuesIn(cpu_engine()->instruction_sets()),
                                            ::testing::Values(DType::f32, DType::bf16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::string(name_of(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace kineograph::testing

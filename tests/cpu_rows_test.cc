// The fused engine's walks over rows against the reference: both models, every instruction set, f32 and bf16.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kineograph/kineograph.h"
#include "random_rows_case.h"

namespace kineograph::testing {
namespace {

using engine::cpu_engine;
using engine::reference_engine;

constexpr std::uint64_t kCases = 500;

/// Distance from one value of a dtype to the next, at `magnitude`.
double spacing(DType dtype, double magnitude) {
  const int digits = dtype == DType::f32 ? 23 : dtype == DType::f16 ? 10 : 7;
  return std::ldexp(1.0, std::max(-24, std::ilogb(std::max(magnitude, 1e-30))) - digits);
}

/// The largest error of a computation, derived as in cpu_engine_test.cc. A layer of TransformerSpatioTemporalModel has
/// the stages of two blocks and one more feed-forward.
double tolerance(const RandomRowsCase& c, DType compute_dtype, double branch, double scale) {
  const double epsilon = compute_dtype == DType::bf16 ? 0x1p-8 : 0x1p-23;
  const double stages = 4.0 + (c.weights.temporal_blocks.empty() ? 5.0 : 11.0) * static_cast<double>(c.num_layers());
  return 4.0 * epsilon * stages * std::max(branch, 0.05 * scale) +
         1.01 * spacing(c.inputs.hidden_states.dtype(), scale);
}

/// Whether every element is within tolerance; one that is no number is not.
::testing::AssertionResult agree(const RandomRowsCase& c, DType dtype, const Tensor& want, const Tensor& got) {
  const Tensor input = convert(c.inputs.hidden_states, DType::f64);
  double branch = 0.0, scale = 0.0, error = 0.0;
  std::int64_t worst = 0;
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    const double y = want.data_as<double>()[i];
    scale = std::max(scale, std::fabs(y));
    branch = std::max(branch, std::fabs(y - input.data_as<double>()[i]));
    const double off = std::fabs(y - got.data_as<double>()[i]);
    if (!std::isnan(error) && !(off <= error)) error = off, worst = i;
  }
  const double allowed = tolerance(c, dtype, branch, scale);
  if (error <= allowed) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "off by " << error << ", allowed " << allowed << "; element " << worst
                                       << ": want " << want.data_as<double>()[worst] << ", got "
                                       << got.data_as<double>()[worst] << "\n"
                                       << c.describe();
}

class CpuRows : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(CpuRows, AgreeWithTheReferenceOnRandomCases) {
  const auto& [isa, dtype] = GetParam();
  int failures = 0;
  for (std::uint64_t seed = 0; seed < 2 * num_cases(kCases) && failures < 10; ++seed) {
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

// The vector functions of every instruction set over the whole range of f32, at the bounds their comments state.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/cpu/schedule/targets.h"

namespace kineograph::engine::cpu {
namespace {

struct Function {
  const char* name;
  VectorFunction which;
  double (*exact)(double);
  double absolute, relative;  ///< the error may be the sum of both
};

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// A factor x multiplies the sigmoid's error: relative to |x|, hence to the result or, on the
// negative side, to a result that fades; the worst there is |x| times 2e-7 within |x| < 90.
constexpr Function kFunctions[] = {
    {"exp2", kExp2, [](double x) { return std::exp2(x); }, 1.2e-38, 1.2e-7},
    {"sigmoid", kSigmoid, [](double x) { return sigmoid(x); }, 2e-7, 0.0},
    {"tanh", kTanh, [](double x) { return std::tanh(x); }, 4e-7, 0.0},
    {"gelu", kGeluErf,
     [](double x) {
       return x > 0.0 ? x - 0.5 * x * std::erfc(x * std::sqrt(0.5)) : 0.5 * x * std::erfc(-x * std::sqrt(0.5));
     },
     5e-7, 6e-8},
    {"gelu_tanh", kGeluTanh,
     [](double x) { return x * sigmoid(2.0 * std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)); }, 1e-6,
     2.4e-7},
    {"silu", kSilu, [](double x) { return x * sigmoid(x); }, 1e-6, 2.4e-7},
    {"gelu_sigmoid", kGeluSigmoid, [](double x) { return x * sigmoid(1.702 * x); }, 1e-6, 2.4e-7},
    // 2^-125 where less would be right.
    {"short_exp2", kShortExp2, [](double x) { return std::exp2(x); }, 0x1p-125, 1.9e-7},
    {"shorter_exp2", kShorterExp2, [](double x) { return std::exp2(x); }, 0x1p-125, 1.1e-4},
};

/// Every 2039th pattern of bits, which meets every exponent of both signs some 4000 times.
std::vector<float> whole_range() {
  std::vector<float> values;
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 2039) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (std::isfinite(x)) values.push_back(x);
  }
  return values;
}

TEST(VectorMath, StaysWithinItsBoundsOverTheWholeRange) {
  const std::vector<float> x = whole_range();
  std::vector<float> got(x.size());
  for (const Function& function : kFunctions) {
    std::vector<double> want(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) want[i] = function.exact(static_cast<double>(x[i]));
    for (const Target* target : targets()) {
      target->apply(function.which, x.data(), got.data(), x.size());
      double worst = 0.0;
      std::size_t where = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double allowed = function.absolute + function.relative * std::fabs(want[i]);
        const bool is_short = function.which == kShortExp2 || function.which == kShorterExp2;
        if (is_short && x[i] > 127.0f) continue;
        // 2^x is infinite half a step before f32 ends.
        if (function.which == kExp2 && x[i] >= 127.5f && std::isinf(got[i])) continue;
        const double error = std::fabs(static_cast<double>(got[i]) - want[i]) / allowed;
        if (!(error <= worst)) worst = error, where = i;
      }
      EXPECT_LE(worst, 1.0) << function.name << " on " << target->name << " at " << x[where] << ": " << got[where]
                            << ", not " << want[where];
    }
  }
}

TEST(VectorMath, InfinityAndNotANumberPassThrough) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float x[] = {nan, inf};
  for (const Function& function : kFunctions)
    for (const Target* target : targets()) {
      float got[2] = {};
      target->apply(function.which, x, got, 2);
      EXPECT_TRUE(std::isnan(got[0])) << function.name << " of NaN on " << target->name << ": " << got[0];
      const bool bounded = function.which == kSigmoid || function.which == kTanh;
      if (bounded) {
        EXPECT_EQ(got[1], 1.0f) << function.name << " of infinity on " << target->name;
      }
      if (function.which == kGeluErf || function.which == kSilu || function.which == kGeluSigmoid) {
        EXPECT_EQ(got[1], inf) << function.name << " of infinity on " << target->name;
      }
    }
}

}  // namespace
}  // namespace kineograph::engine::cpu

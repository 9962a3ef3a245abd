// Comparison of engines' answers, and how far they may lie apart.
#pragma once

#include <string>
#include <vector>

#include "kineograph/kineograph.h"

namespace kineograph::testing {

/// One way to run a model.
struct Runner {
  std::string engine, isa;
  DType compute;
  ModelOptions options() const;
  std::string name() const;
};

/// Names of the engines that take every model and every call: all but cuda, which tests/cuda holds to the reference.
std::vector<std::string> host_engines();

/// The reference, and every one of host_engines() with every instruction set of this machine in f32 and bf16.
std::vector<Runner> runners();

/// How far a runner's answer of largest value `scale` may lie from an f64 run rounded to f32, for an input of dtype
/// `image`.
double tolerance(const TransformerConfig& config, const Runner& runner, DType image, double scale);

/// Fails the test where `got` differs from `want` by more than tolerance().
void expect_close(const Tensor& got, TensorView want, const TransformerConfig& config, const Runner& runner,
                  DType image);

}  // namespace kineograph::testing

// How far an engine's answer to a random case may lie from the reference's.
#pragma once

#include <string>

#include "kineograph/tensor.h"

namespace kineograph::testing {

/// Largest relative error of a value that is rounded to a compute dtype; for f32 a sum's, twice that.
double unit_roundoff(DType dtype);

/// The computation whose answers are compared.
struct Computation {
  TensorView input;  ///< what the output adds its branch to; empty for none
  DType output, compute;
  double stages;  ///< products, attentions and feed-forwards one after the other
};

/// Empty where every element of `got` is within the tolerance of a computation whose products round their inputs to
/// `compute`, else the element that is not; one that is no number is not. Both are f64.
std::string disagreement(const Computation& computation, const Tensor& want, const Tensor& got);

}  // namespace kineograph::testing

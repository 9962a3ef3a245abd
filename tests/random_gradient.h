// Random cases as training sees them, and all gradients of one.
#pragma once

#include <string>
#include <vector>

#include "random_case.h"

namespace kineograph::testing {

/// A gradient and the name of its parameter or input.
struct Named {
  std::string name;
  Tensor value;
};

/// Turns dropout on for every third seed.
void make_trained(RandomCase& c, std::uint64_t seed);

/// A loss's gradient by the output: of its shape and dtype, uniform in [-1, 1].
Tensor sample_gradient(const RandomCase& c, std::uint64_t seed);

/// The gradients of every parameter in the state dict's order, then of the inputs.
std::vector<Named> gradients_of(const RandomCase& c, const engine::Plan& plan, std::uint64_t seed, int threads);

}  // namespace kineograph::testing

// Weights from a seed, the same on every machine and in tests/goldens/seeded_weights.py.
#pragma once

#include <cstdint>
#include <string_view>

namespace kineograph::model {

/// A stream of numbers that depends on the seed and a parameter's name only.
class SeededUniform {
 public:
  SeededUniform(std::uint64_t seed, std::string_view name);
  /// Element i, uniform in (-1, 1): an odd multiple of 2^-23, exact in f32.
  float operator()(std::uint64_t i) const;

 private:
  std::uint64_t key_;
};

}  // namespace kineograph::model

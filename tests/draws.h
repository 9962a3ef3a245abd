// Random numbers, weights and tensors of one test case, all drawn from one seed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <random>
#include <span>
#include <string_view>
#include <utility>

#include "engine/engine.h"

namespace kineograph::testing {

/// How many random cases a test takes: `usual`, or as many as KINEOGRAPH_CASES says (under sanitizers).
inline std::uint64_t num_cases(std::uint64_t usual) {
  const char* said = std::getenv("KINEOGRAPH_CASES");
  return said == nullptr ? usual : std::strtoull(said, nullptr, 10);
}

/// The first seed of the cases that are an instruction set's own: each is held to others, so that a few for each are
/// many together.
inline std::uint64_t first_case(std::string_view isa, DType dtype = DType::f32) {
  std::uint64_t hash = static_cast<std::uint64_t>(dtype) + 1;
  for (const char c : isa) hash = (hash * 31 + static_cast<unsigned char>(c)) % 997;
  return 10000 * hash;
}

class Draws {
 public:
  explicit Draws(std::uint64_t seed) : random_(seed) {}
  /// Choices are read from `bytes` as long as they last, one a choice; numbers, and what is chosen after them, are
  /// drawn from a seed that depends on all of them.
  explicit Draws(std::span<const std::uint8_t> bytes) : bytes_(bytes) {
    std::seed_seq seed(bytes.begin(), bytes.end());
    random_.seed(seed);
  }
  Draws(const Draws&) = delete;
  Draws& operator=(const Draws&) = delete;

 protected:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(choice() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(double p) {
    if (!bytes_.empty()) return static_cast<double>(choice()) < 256.0 * p;
    return static_cast<double>(random_() >> 11) * 0x1p-53 < p;
  }

  /// Uniform in offset +- scale, of weight_dtype_.
  TensorView draw(Shape shape, double scale, double offset = 0.0) {
    Tensor floats(DType::f32, shape);
    for (std::int64_t i = 0; i < floats.numel(); ++i)
      floats.data_as<float>()[i] =
          static_cast<float>(offset + scale * (static_cast<double>(random_() >> 11) * 0x1p-52 - 1.0));
    tensors_.push_back(weight_dtype_ == DType::f32 ? std::move(floats) : convert(floats, weight_dtype_));
    return tensors_.back();
  }
  engine::Linear linear(std::int64_t rows, std::int64_t cols, bool bias, double gain = 1.0) {
    const double bound = gain / std::sqrt(static_cast<double>(cols));
    return {draw({rows, cols}, bound), bias ? draw({rows}, bound) : TensorView{}};
  }
  engine::Norm norm(std::int64_t width, bool affine) {
    if (!affine) return {};
    return {draw({width}, 0.25, 1.0), draw({width}, 0.25)};
  }

  std::uint64_t choice() {
    if (bytes_.empty()) return random_();
    const std::uint8_t byte = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return byte;
  }

  std::span<const std::uint8_t> bytes_;
  std::mt19937_64 random_;
  std::deque<Tensor> tensors_;
  DType weight_dtype_ = DType::f32;
};

}  // namespace kineograph::testing

// Random numbers, weights and tensors of one test case, all drawn from one seed.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <random>
#include <utility>

#include "engine/engine.h"

namespace kineograph::testing {

class Draws {
 public:
  explicit Draws(std::uint64_t seed) : random_(seed) {}
  Draws(const Draws&) = delete;
  Draws& operator=(const Draws&) = delete;

 protected:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(double p) { return static_cast<double>(random_() >> 11) * 0x1p-53 < p; }

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

  std::mt19937_64 random_;
  std::deque<Tensor> tensors_;
  DType weight_dtype_ = DType::f32;
};

}  // namespace kineograph::testing

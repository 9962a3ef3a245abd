// Random small models and inputs at the engines' interface, for holding one engine to another.
#pragma once

#include <cstdint>
#include <deque>
#include <random>
#include <string>

#include "engine/engine.h"

namespace kineograph::testing {

/// A configuration, weights and a call, all drawn from `seed`. Shapes are multiples of nothing, and every option
/// occurs.
class RandomCase {
 public:
  explicit RandomCase(std::uint64_t seed);
  RandomCase(const RandomCase&) = delete;
  RandomCase& operator=(const RandomCase&) = delete;

  TransformerTemporalConfig config;
  engine::Weights weights;
  engine::Inputs inputs;

  /// An output of the shape and dtype that the call wants.
  Tensor make_output() const;
  /// Runs an engine on it and returns the output as f64.
  Tensor run(const engine::Engine& engine, DType compute_dtype, const std::string& isa, int threads,
             bool in_place = false) const;
  /// One line that names every choice.
  std::string describe() const;

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high);
  bool chance(double p);
  TensorView draw(Shape shape, double scale, double offset = 0.0);
  engine::Linear linear(std::int64_t rows, std::int64_t cols, bool bias, double gain = 1.0);
  engine::Norm norm(std::int64_t width, bool affine);
  engine::Attention attention(std::int64_t context);
  engine::AdaNorm ada_norm(std::int64_t chunks);
  void draw_config();
  void draw_weights();
  void draw_inputs();

  std::mt19937_64 random_;
  std::deque<Tensor> tensors_;
  DType weight_dtype_ = DType::f32, input_dtype_ = DType::f32;
  bool channels_last_ = false;
};

}  // namespace kineograph::testing

// Random small models and inputs at the engines' interface, for holding one engine to another.
#pragma once

#include <cstdint>
#include <string>

#include "draws.h"
#include "engine/engine.h"

namespace kineograph::testing {

/// A configuration, weights and a call, all drawn from `seed`, or chosen by `bytes`. Shapes are multiples of nothing,
/// and every option occurs.
class RandomCase : Draws {
 public:
  /// `cuda`: what engine cuda takes: widths are multiples of 8, norms are plain, no discrete latents. `long_clips`:
  /// all, but of few pixels and hundreds of frames.
  enum class Options { all, cuda, long_clips };
  explicit RandomCase(std::uint64_t seed, Options options = Options::all);
  explicit RandomCase(std::span<const std::uint8_t> bytes);
  RandomCase(const RandomCase&) = delete;
  RandomCase& operator=(const RandomCase&) = delete;

  TransformerTemporalConfig config;
  engine::Weights weights;
  engine::Inputs inputs;

  /// Windows for some, of what is drawn beside them; a case begins without.
  void draw_context();
  /// An output of the shape and dtype that the call wants.
  Tensor make_output() const;
  /// Runs an engine on it and returns the output as f64.
  Tensor run(const engine::Engine& engine, DType compute_dtype, const std::string& isa, int threads,
             bool in_place = false) const;
  /// One line that names every choice.
  std::string describe() const;

 private:
  engine::Attention attention(std::int64_t context);
  engine::AdaNorm ada_norm(std::int64_t chunks);
  void draw_all();
  void draw_config();
  void draw_weights();
  void draw_inputs();

  Options options_ = Options::all;
  DType input_dtype_ = DType::f32;
  bool channels_last_ = false;
};

/// Whether every element of `got` is within the tolerance of a computation whose products round their inputs to
/// `compute_dtype`; one that is no number is not. Empty where it is, else where it is not and of which case. Both are
/// what RandomCase::run returns.
std::string disagreement(const RandomCase& c, DType compute_dtype, const Tensor& want, const Tensor& got);

}  // namespace kineograph::testing

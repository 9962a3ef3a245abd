// Random small Transformer2DModels and TransformerSpatioTemporalModels at the engines' interface.
#pragma once

#include <string>

#include "draws.h"
#include "engine/engine.h"

namespace kineograph::testing {

/// A configuration, weights and a call of either model, all drawn from `seed`. Shapes are multiples of nothing, and
/// every option occurs.
class RandomRowsCase : Draws {
 public:
  explicit RandomRowsCase(std::uint64_t seed);

  ModelConfig config;
  engine::Weights weights;
  engine::Inputs inputs;

  /// Runs an engine on it and returns the output as f64.
  Tensor run(const engine::Engine& engine, DType compute_dtype, const std::string& isa, int threads,
             bool in_place = false) const;
  std::int64_t num_layers() const { return common(config).num_layers; }
  /// One line that names every choice.
  std::string describe() const;

 private:
  engine::Attention attention(const TransformerConfig& c, std::int64_t context);
  engine::AdaNorm ada_norm(const TransformerConfig& c, std::int64_t chunks);
  void draw_block(const TransformerConfig& c, engine::Block& block);
  void draw_image_model();
  void draw_video_model();
  void draw_outer_weights(const TransformerConfig& c);
  void draw_shape(std::int64_t max_rows);
  void draw_context(const TransformerConfig& c);
  TensorView draw_bias(std::int64_t keys);

  DType input_dtype_ = DType::f32;
};

}  // namespace kineograph::testing

// The one table of parameter names and shapes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "kineograph/config.h"
#include "kineograph/model.h"

namespace kineograph::model {

/// Kind of a parameter: decides how a seed fills it.
enum class Role { linear_weight, linear_bias, norm_weight, norm_bias, embedding, positions, mix_factor };

/// One parameter: its name in diffusers' state dict, its shape, and where an engine finds it.
template <class View>
struct SlotOf {
  std::string name;
  Shape shape;
  Role role;
  std::int64_t fan_in;  ///< columns of the linear layer it belongs to, else 0
  View* view;
};
using Slot = SlotOf<TensorView>;

/// Every parameter of `config` in the state dict's order, over weights (TensorView) or their gradients
/// (MutableTensorView). `weights` gets its blocks; the slots point into it.
template <class View>
std::vector<SlotOf<View>> parameter_slots(const ModelConfig& config, engine::WeightsOf<View>& weights);

/// A slot's tensor as engines take it: the weight (N, K, 1, 1) of a 1 x 1 convolution is a Linear layer's (N, K).
TensorView as_engine_sees(const TensorView& view);

/// Misfits between `state_dict` and the slots, a line each; empty where there are none. Positions may be missing.
std::string state_dict_problems(const std::vector<Slot>& slots, const std::vector<Parameter>& state_dict);

/// The position table (1, N, I) as diffusers' SinusoidalPositionalEmbedding computes it, in f32:
/// pe[p, 2i] = sin(p exp(-2i ln(10000) / I)), pe[p, 2i+1] = cos(the same).
Tensor sinusoidal_positions(std::int64_t positions, std::int64_t width);

/// Fills a parameter from a seed as PyTorch would initialise it: see TransformerTemporalModel::from_config.
Tensor seeded_parameter(const Slot& slot, std::uint64_t seed, DType dtype);

}  // namespace kineograph::model

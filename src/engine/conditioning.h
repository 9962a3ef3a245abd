// What timestep and class_labels do to a block: computed once per video, before any token.
#pragma once

#include <vector>

#include "engine/engine.h"

namespace kineograph::engine {

/// Vectors of I values for one block and one video; empty where the configuration has none. A conditioned norm is
/// n * (1 + scale) + shift with n the normalised input; a gate multiplies a branch before it is added to the residual
/// stream.
struct BlockConditioning {
  std::vector<double> norm1_scale, norm1_shift;
  std::vector<double> norm2_scale, norm2_shift;  // AdaLayerNorm
  std::vector<double> norm3_scale, norm3_shift;  // AdaLayerNormZero's mlp pair, on top of norm3's own affine
  std::vector<double> gate_attn1, gate_ff;       // AdaLayerNormZero
};

/// sum += more; empty vectors are zeros.
void add(BlockConditioning& sum, const BlockConditioning& more);

/// All blocks and videos of one call.
class Conditioning {
 public:
  Conditioning() = default;
  Conditioning(std::size_t layers, std::size_t videos) : videos_(videos), blocks_(layers * videos) {}
  BlockConditioning& at(std::size_t layer, std::size_t video) { return blocks_[layer * videos_ + video]; }
  const BlockConditioning& at(std::size_t layer, std::size_t video) const { return blocks_[layer * videos_ + video]; }

 private:
  std::size_t videos_ = 0;
  std::vector<BlockConditioning> blocks_;
};

/// AdaLayerNorm and AdaLayerNormZero of diffusers (models/normalization.py, models/embeddings.py), in double except
/// where diffusers itself forces f32: the sinusoid of the timestep. For norm_type layer_norm everything is empty.
Conditioning compute_conditioning(const TransformerConfig& config, const Weights& weights, const Inputs& inputs);

/// TransformerSpatioTemporalModel: what a temporal block's input gets added, (F, I), one row a frame of a video:
/// time_pos_embed of the sinusoid of its number (C channels, f32 as diffusers computes it).
std::vector<double> frame_embeddings(const Weights& weights, std::int64_t num_frames);

/// The share of the spatial block's output in a blend, one per row: sigmoid(mix_factor), 1 for images by themselves.
std::vector<double> spatial_shares(const Weights& weights, const Inputs& inputs);

/// Writes the gradients of the conditional norms' own parameters that are wanted; `d_conditioning` is the loss's
/// gradient by every vector of compute_conditioning, empty vectors are zeros.
void conditioning_backward(const TransformerConfig& config, const Weights& weights, const Inputs& inputs,
                           const Conditioning& d_conditioning, const WeightGradients& gradients);

/// The i-th element of a contiguous floating tensor.
double element(const TensorView& view, std::int64_t i);

/// All elements of a floating tensor, row-major.
std::vector<double> to_doubles(const TensorView& view);

/// The reverse: rounds row-major values to the view's dtype. Does nothing for an absent view.
void from_doubles(const std::vector<double>& values, const MutableTensorView& view);

}  // namespace kineograph::engine

#include "engine/cpu/backward/finish.h"

#include "base/half.h"
#include "engine/conditioning.h"
#include "engine/cpu/pack/parallel.h"

namespace kineograph::engine::cpu {
namespace {

using Vector = std::vector<double>;

/// W pixels of one row as floats.
void read_row(const Image& image, std::int64_t offset, std::size_t count, float* out) {
  dispatch_floating(image.dtype, [&]<class T>(T) {
    const T* from = reinterpret_cast<const T*>(image.data) + offset;
    for (std::size_t i = 0; i < count; ++i) out[i] = to_float(from[static_cast<std::int64_t>(i) * image.stride_w]);
  });
}
void write_row(const Image& image, std::int64_t offset, std::size_t count, const float* values) {
  dispatch_floating(image.dtype, [&]<class T>(T) {
    T* to = reinterpret_cast<T*>(image.data) + offset;
    for (std::size_t i = 0; i < count; ++i)
      to[static_cast<std::int64_t>(i) * image.stride_w] = from_float<T>(values[i]);
  });
}

/// d_x = slope d + by_h ((x - centre) r + shift) + constant + d_output, for one channel of one row.
struct InputSlope {
  float slope, by_h, constant, centre, r, shift;
  float operator()(float d, float x, float d_output) const {
    return slope * d + by_h * ((x - centre) * r + shift) + constant + d_output;
  }
};

/// With h = (x - mean) r and g = d_n weight: d_x = r (g - mean(g) - h mean(g h)), over the channel's group.
InputSlope input_slope(const BackwardCall& backward, std::size_t row, std::size_t c) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const NormSums& sums = backward.sums->group_norm;
  const std::size_t channels = model.channels;
  const std::size_t per_group = channels / static_cast<std::size_t>(model.config.norm_num_groups);
  const double count = static_cast<double>(per_group * call.pixels * (call.group_set_per_frame ? 1 : call.frames));
  const std::size_t first = c / per_group * per_group, set = call.group_set_per_frame ? row : row / call.frames;
  double mean = 0.0, along = 0.0;
  for (std::size_t k = first; k < first + per_group; ++k) {
    const double weight = static_cast<double>(model.norm_weight[k]);
    mean += weight * sums.plain[set * channels + k] / count;
    along += weight * sums.along[set * channels + k] / count;
  }
  const std::size_t at = set * channels + c;
  const float r = call.group_scale[at];
  return {
      model.norm_weight[c] * r, -r * static_cast<float>(along), -r * static_cast<float>(mean), call.group_mean[at], r,
      call.group_shift[at]};
}

/// Scale and shift of norm1, norm2 and norm3 in a conditioning.
struct NormVectors {
  Vector *scale, *shift;
};
NormVectors norm_vectors(BlockConditioning& block, std::size_t which) {
  Vector* const scale[3] = {&block.norm1_scale, &block.norm2_scale, &block.norm3_scale};
  Vector* const shift[3] = {&block.norm1_shift, &block.norm2_shift, &block.norm3_shift};
  return {scale[which], shift[which]};
}

/// One norm of one video: adds to the gradients of its weight and bias, and sets those of its conditioning. With
/// n = (h w + b) (1 + by) + add, h the normalised input.
void finish_norm(const BackwardCall& backward, std::size_t layer, std::size_t which, std::size_t video, Vector& weight,
                 Vector& bias, BlockConditioning& d_block) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const NormSums& sums = backward.sums->norms[(layer * 3 + which) * call.videos + video];
  if (sums.along.empty()) return;
  const PackedBlock& block = model.blocks[layer];
  const bool conditioned = call.modulation(layer, video).norm[which].conditioned;
  Vector by;
  if (conditioned) {
    BlockConditioning own = backward.conditioning->at(layer, video);
    by = std::move(*norm_vectors(own, which).scale);
    norm_vectors(d_block, which).scale->resize(model.inner);
    norm_vectors(d_block, which).shift->resize(model.inner);
  }
  for (std::size_t c = 0; c < model.inner; ++c) {
    double factor = 1.0;
    if (conditioned) {
      const double b = static_cast<double>(block.norm_shift[which][c]);
      const double w = static_cast<double>(block.norm_scale[which][c]);
      (*norm_vectors(d_block, which).scale)[c] = sums.along[c] * w + sums.plain[c] * b;
      (*norm_vectors(d_block, which).shift)[c] = sums.plain[c];
      factor += by[c];
    }
    weight[c] += sums.along[c] * factor;
    bias[c] += sums.plain[c] * factor;
  }
}

/// The norms of the blocks, and the conditioning that scales, shifts and gates them.
void finish_blocks(const BackwardCall& backward, const Weights& weights) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const WeightGradients& to = backward.gradients->weights;
  const std::size_t layers = model.blocks.size(), videos = call.videos;
  Conditioning d_conditioning(layers, videos);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const BlockOf<MutableTensorView>& block = to.blocks[layer];
    const NormOf<MutableTensorView>* norms[3] = {&block.norm1, &block.norm2, &block.norm3};
    for (std::size_t which = 0; which < 3; ++which) {
      Vector weight(model.inner), bias(model.inner);
      for (std::size_t video = 0; video < videos; ++video)
        finish_norm(backward, layer, which, video, weight, bias, d_conditioning.at(layer, video));
      from_doubles(weight, norms[which]->weight);
      from_doubles(bias, norms[which]->bias);
    }
    for (std::size_t video = 0; video < videos; ++video) {
      d_conditioning.at(layer, video).gate_attn1 = backward.sums->gates[layer * 2 * videos + video];
      d_conditioning.at(layer, video).gate_ff = backward.sums->gates[(layer * 2 + 1) * videos + video];
    }
  }
  conditioning_backward(model.config, weights, *call.inputs, d_conditioning, to);
}

void finish_group_norm(const NormSums& sums, std::size_t channels, const NormOf<MutableTensorView>& to) {
  Vector weight(channels), bias(channels);
  for (std::size_t i = 0; i < sums.along.size(); ++i) {
    weight[i % channels] += sums.along[i];
    bias[i % channels] += sums.plain[i];
  }
  from_doubles(weight, to.weight);
  from_doubles(bias, to.bias);
}

}  // namespace

void finish_input(const BackwardCall& backward, int threads) {
  const Call& call = *backward.call;
  const std::size_t channels = call.model->channels;
  for_each_index(threads, call.videos * call.frames * channels, [&](std::size_t i) {
    const std::size_t row = i / channels, c = i % channels;
    const InputSlope slope = input_slope(backward, row, c);
    // A piece at a time, on the stack: however wide the image, nothing is allocated.
    constexpr std::size_t kPiece = 256;
    float x[kPiece], d_output[kPiece], d[kPiece];
    for (std::size_t h = 0; h < call.height; ++h)
      for (std::size_t w = 0; w < call.width; w += kPiece) {
        const std::size_t here = std::min(kPiece, call.width - w);
        const auto offset = [&](const Image& image) {
          return static_cast<std::int64_t>(row) * image.stride_n + static_cast<std::int64_t>(c) * image.stride_c +
                 static_cast<std::int64_t>(h) * image.stride_h + static_cast<std::int64_t>(w) * image.stride_w;
        };
        read_row(call.input, offset(call.input), here, x);
        read_row(backward.d_output, offset(backward.d_output), here, d_output);
        read_row(backward.d_input, offset(backward.d_input), here, d);
        for (std::size_t j = 0; j < here; ++j) d[j] = slope(d[j], x[j], d_output[j]);
        write_row(backward.d_input, offset(backward.d_input), here, d);
      }
  });
}

void finish_parameters(const BackwardCall& backward, const Weights& weights) {
  const PackedModel& model = *backward.call->model;
  const BackwardSums& sums = *backward.sums;
  const WeightGradients& to = backward.gradients->weights;
  finish_blocks(backward, weights);
  if (model.config.is_discrete()) {
    from_doubles(sums.latent, to.latent_emb);
    from_doubles(sums.height, to.latent_height_emb);
    from_doubles(sums.width, to.latent_width_emb);
    if (!sums.norm_out.along.empty()) {
      from_doubles(sums.norm_out.along, to.norm_out.weight);
      from_doubles(sums.norm_out.plain, to.norm_out.bias);
    }
  } else {
    finish_group_norm(sums.group_norm, model.channels, to.norm);
  }
  if (!sums.encoder.empty()) from_doubles(sums.encoder, backward.gradients->encoder_hidden_states);
}

}  // namespace kineograph::engine::cpu

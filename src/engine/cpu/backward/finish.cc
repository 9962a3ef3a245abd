#include "engine/cpu/backward/finish.h"

#include <array>

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

/// The offset of a row of pixels of a channel of a frame.
std::int64_t row_offset(const Image& image, std::size_t frame, std::size_t c, std::size_t h) {
  return static_cast<std::int64_t>(frame) * image.stride_n + static_cast<std::int64_t>(c) * image.stride_c +
         static_cast<std::int64_t>(h) * image.stride_h;
}

/// Values that a set of GroupNorm's statistics has of each group, in the whole picture.
double group_count(const Call& call) {
  const std::size_t per_group = call.model->channels / static_cast<std::size_t>(call.model->config.norm_num_groups);
  return static_cast<double>(per_group * call.picture_rows() * call.width *
                             (call.group_set_per_frame ? 1 : call.frames));
}

/// Pixels that are taken up at a time, on the stack: however wide the image, nothing is allocated.
constexpr std::size_t kPiece = 256;

/// The sums of g and of g h over a group's channels in a row of pixels of a frame; d_n lies in d_input.
std::array<double, 2> sum_row(const BackwardCall& backward, std::size_t frame, std::size_t group, std::size_t h) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const std::size_t per_group = model.channels / static_cast<std::size_t>(model.config.norm_num_groups);
  const std::size_t set = call.group_set_per_frame ? frame : frame / call.frames;
  std::array<double, 2> sums{};
  for (std::size_t c = group * per_group; c < (group + 1) * per_group; ++c) {
    const std::size_t at = set * model.channels + c;
    const double weight = static_cast<double>(model.norm_weight[c]);
    for (std::size_t w = 0; w < call.width; w += kPiece) {
      const std::size_t here = std::min(kPiece, call.width - w);
      float x[kPiece], d[kPiece];
      const auto read = [&](const Image& image, float* to) {
        read_row(image, row_offset(image, frame, c, h) + static_cast<std::int64_t>(w) * image.stride_w, here, to);
      };
      read(call.input, x);
      read(backward.d_input, d);
      for (std::size_t j = 0; j < here; ++j) {
        const double g = weight * static_cast<double>(d[j]);
        sums[0] += g;
        sums[1] += g * static_cast<double>((x[j] - call.group_mean[at]) * call.group_scale[at] + call.group_shift[at]);
      }
    }
  }
  return sums;
}

/// d_x = r (g - mean(g) - h mean(g h)), and the residual's d_output.
InputSlope input_slope(const BackwardCall& backward, const GroupMeans& means, std::size_t row, std::size_t c) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const auto groups = static_cast<std::size_t>(model.config.norm_num_groups);
  const std::size_t set = call.group_set_per_frame ? row : row / call.frames, at = set * model.channels + c;
  const std::size_t group = set * groups + c / (model.channels / groups);
  const float r = call.group_scale[at];
  return {model.norm_weight[c] * r,
          -r * static_cast<float>(means.along[group]),
          -r * static_cast<float>(means.plain[group]),
          call.group_mean[at],
          r,
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

std::vector<double> sum_rows(const BackwardCall& backward, int threads) {
  const Call& call = *backward.call;
  const auto groups = static_cast<std::size_t>(call.model->config.norm_num_groups);
  const std::size_t frames = call.group_set_per_frame ? 1 : call.frames, sets = call.group_sets();
  Vector rows(2 * sets * call.height * groups);
  for_each_index(threads, sets * groups, [&](std::size_t i) {
    const std::size_t set = i / groups, group = i % groups;
    for (std::size_t f = 0; f < frames; ++f)
      for (std::size_t h = 0; h < call.height; ++h) {
        const auto [plain, along] = sum_row(backward, set * frames + f, group, h);
        double* const row = rows.data() + 2 * ((set * call.height + h) * groups + group);
        row[0] += plain;
        row[1] += along;
      }
  });
  return rows;
}

GroupMeans means_of(const Call& call, const std::vector<double>& rows) {
  const auto groups = static_cast<std::size_t>(call.model->config.norm_num_groups);
  const std::size_t sets = call.group_sets(), height = call.picture_rows();
  GroupMeans means{Vector(sets * groups), Vector(sets * groups)};
  for (std::size_t i = 0; i < sets * height * groups; ++i) {
    const std::size_t at = i / (height * groups) * groups + i % groups;
    means.plain[at] += rows[2 * i] / group_count(call);
    means.along[at] += rows[2 * i + 1] / group_count(call);
  }
  return means;
}

GroupMeans group_means(const BackwardCall& backward) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const auto groups = static_cast<std::size_t>(model.config.norm_num_groups);
  const NormSums& sums = backward.sums->group_norm;
  GroupMeans means{Vector(call.group_sets() * groups), Vector(call.group_sets() * groups)};
  for (std::size_t i = 0; i < sums.plain.size(); ++i) {
    const std::size_t c = i % model.channels, at = i / model.channels * groups + c / (model.channels / groups);
    const double weight = static_cast<double>(model.norm_weight[c]);
    means.plain[at] += weight * sums.plain[i] / group_count(call);
    means.along[at] += weight * sums.along[i] / group_count(call);
  }
  return means;
}

void finish_input(const BackwardCall& backward, const GroupMeans& means, int threads) {
  const Call& call = *backward.call;
  const std::size_t channels = call.model->channels;
  for_each_index(threads, call.videos * call.frames * channels, [&](std::size_t i) {
    const std::size_t row = i / channels, c = i % channels;
    const InputSlope slope = input_slope(backward, means, row, c);
    float x[kPiece], d_output[kPiece], d[kPiece];
    for (std::size_t h = 0; h < call.height; ++h)
      for (std::size_t w = 0; w < call.width; w += kPiece) {
        const std::size_t here = std::min(kPiece, call.width - w);
        const auto offset = [&](const Image& image) {
          return row_offset(image, row, c, h) + static_cast<std::int64_t>(w) * image.stride_w;
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

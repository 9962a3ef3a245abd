#include "engine/cpu/backward/backward.h"

#include <tbb/info.h>

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "engine/cpu/pack/pack.h"
#include "engine/cpu/schedule/targets.h"

namespace kineograph::engine::cpu {
namespace {

/// Tokens of a tile. Each tile adds once to every weight's gradient in memory, so that few tokens would make that the
/// work; many leave the L2 cache.
constexpr std::size_t kTileTokens = 512;

/// What a tile's buffers may take: wide models get smaller tiles.
constexpr std::size_t kTileBytes = std::size_t{48} << 20;

/// The most tiles that are walked at once. They follow each other as closely as their longest addition lets them, about
/// a fiftieth of a tile's time.
constexpr int kMostWalkers = 32;

/// How many tiles are walked at once: one a thread if there are enough, and equal numbers of threads for each.
std::size_t walkers_of(std::size_t tiles, int threads) {
  // Threads beyond the cores would only take turns, and each needs memory; a few, so that any machine can try them.
  const int cores = std::max(4, tbb::info::default_concurrency());
  return std::min(tiles, static_cast<std::size_t>(std::min({threads, cores, kMostWalkers})));
}

bool wanted(const NormOf<MutableTensorView>& norm) { return norm.weight || norm.bias; }
bool wanted(const LinearOf<MutableTensorView>& linear) { return linear.weight || linear.bias; }
bool wanted(const AdaNormOf<MutableTensorView>& norm) {
  return norm.emb || wanted(norm.timestep_linear_1) || wanted(norm.timestep_linear_2) || norm.class_table ||
         wanted(norm.linear);
}

void clear(std::vector<double>& values, std::size_t count) { values.assign(count, 0.0); }
void clear(NormSums& sums, std::size_t count) {
  clear(sums.along, count);
  clear(sums.plain, count);
}

void clear(BackwardSums& sums, const Call& call, const Gradients& gradients) {
  const PackedModel& model = *call.model;
  const std::size_t layers = model.blocks.size(), videos = call.videos, inner = model.inner;
  const bool zero = model.config.norm_type == NormType::ada_norm_zero;
  sums.norms.resize(layers * 3 * videos);
  sums.gates.resize(layers * 2 * videos);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const BlockOf<MutableTensorView>& to = gradients.weights.blocks[layer];
    const bool want[3] = {wanted(to.norm1) || wanted(to.ada_norm1), wanted(to.norm2) || wanted(to.ada_norm2),
                          wanted(to.norm3) || (zero && wanted(to.ada_norm1))};
    for (std::size_t video = 0; video < videos; ++video) {
      for (std::size_t which = 0; which < 3; ++which)
        clear(sums.norms[(layer * 3 + which) * videos + video], want[which] ? inner : 0);
      for (std::size_t which = 0; which < 2; ++which)
        clear(sums.gates[(layer * 2 + which) * videos + video], zero && wanted(to.ada_norm1) ? inner : 0);
    }
  }
  const std::size_t sets = call.videos * (call.group_set_per_frame ? call.frames : 1);
  clear(sums.group_norm, model.config.is_discrete() ? 0 : sets * model.channels);
  clear(sums.norm_out, wanted(gradients.weights.norm_out) ? inner : 0);
  clear(sums.latent, model.latent_emb.size());
  clear(sums.height, model.latent_height_emb.size());
  clear(sums.width, model.latent_width_emb.size());
  const bool shared = gradients.encoder_hidden_states && call.inputs->encoder_per_video;
  clear(sums.encoder, shared ? videos * call.context_tokens * call.context_dim : 0);
}

/// Floats of every buffer of a tile, in the order of each_buffer.
struct BufferSizes {
  std::size_t layers, inner, last, keys, image, channels, projected, hidden, context, transposed, moments, operand,
      paired;

  BufferSizes(const Call& call, const TrainedModel& trained, const TileShape& shape) {
    const PackedModel& model = *call.model;
    const std::size_t panel = 2 * shape.lanes, panels = shape.panels();
    const std::size_t context_panels = (call.context_tokens * shape.groups + 1) / 2;
    const std::size_t key_panels = std::max(panels, context_panels);
    layers = model.blocks.size();
    inner = panels * pad_channels(model.inner) * panel;
    last = model.config.is_discrete() ? inner : 0;
    keys = key_panels * pad_channels(model.inner) * panel;
    channels = panels * pad_channels(model.channels) * panel;
    image = std::max(channels, panels * pad_channels(model.classes()) * panel);
    hidden = panels * trained.chunk * panel;
    projected = hidden * (trained.gated ? 2 : 1);
    context = context_panels * pad_channels(call.context_dim) * panel;
    const std::size_t widest = std::max({model.inner, model.channels, trained.chunk});
    transposed = std::max(panels * round_up(widest, panel), context_panels * round_up(call.context_dim, panel)) * panel;
    moments = panels * 2 * panel;
    const bool pairs = is_paired(trained_arithmetic(model));
    operand = paired = pairs ? key_panels * operand_panel(call, trained, shape.lanes) : 0;
  }

  /// visit(buffer, floats) for all but the blocks' inputs.
  template <class Buffers, class Visit>
  void each(Buffers& b, Visit&& visit) const {
    for (auto* buffer : {&b.x1, &b.x2, &b.n[0], &b.n[1], &b.n[2], &b.q[0], &b.q[1], &b.attended[0], &b.attended[1],
                         &b.y, &b.d_x, &b.d_y, &b.d_n})
      visit(*buffer, inner);
    visit(b.last, last);
    for (auto* buffer : {&b.k[0], &b.k[1], &b.v[0], &b.v[1]}) visit(*buffer, keys);
    visit(b.image, channels);
    visit(b.d_image, image);
    visit(b.projected, projected);
    for (auto* buffer : {&b.hidden, &b.d_hidden}) visit(*buffer, hidden);
    for (auto* buffer : {&b.context, &b.d_context}) visit(*buffer, context);
    visit(b.transposed, transposed);
    visit(b.moments, moments);
    visit(b.operand, operand);
    visit(b.paired, paired);
  }

  std::size_t bytes() const {
    std::size_t floats = layers * inner;
    BackwardBuffers none;
    each(none, [&](const Buffer<float>&, std::size_t size) { floats += size; });
    return floats * sizeof(float);
  }
};

/// All anew, next to each other, as soon as one is too small.
void grow_all(BackwardBuffers& buffers, const BufferSizes& sizes) {
  buffers.x.resize(sizes.layers);
  bool small = std::any_of(buffers.x.begin(), buffers.x.end(), [&](auto& x) { return x.size() < sizes.inner; });
  sizes.each(buffers, [&](Buffer<float>& buffer, std::size_t size) { small = small || buffer.size() < size; });
  if (!small) return;
  buffers = {};
  buffers.x.resize(sizes.layers);
  Slab slab(sizes.bytes());
  for (Buffer<float>& x : buffers.x) x = Buffer<float>(sizes.inner, &slab);
  sizes.each(buffers, [&](Buffer<float>& buffer, std::size_t size) { buffer = Buffer<float>(size, &slab); });
}

WorkspaceSizes scratch_sizes(const Call& call, const Target& target) {
  WorkspaceSizes sizes;
  sizes.scores = target.backward_scratch(call.frames, std::max(call.frames, call.context_tokens));
  return sizes;
}

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

/// The input's gradient from that of GroupNorm's output, which is there. With h = (x - mean) r and g = d_n weight:
/// d_x = r (g - mean(g) - h mean(g h)), and the residual's d_output.
void finish_input(const BackwardCall& backward, int threads) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const NormSums& sums = backward.sums->group_norm;
  const std::size_t channels = model.channels, frames = call.frames;
  const std::size_t per_group = channels / static_cast<std::size_t>(model.config.norm_num_groups);
  const double count = static_cast<double>(per_group * call.pixels * (call.group_set_per_frame ? 1 : frames));
  for_each_index(threads, call.videos * frames * channels, [&](std::size_t i) {
    const std::size_t row = i / channels, c = i % channels, first = c / per_group * per_group;
    const std::size_t set = call.group_set_per_frame ? row : row / frames;
    double mean = 0.0, along = 0.0;
    for (std::size_t k = first; k < first + per_group; ++k) {
      const double weight = static_cast<double>(model.norm_weight[k]);
      mean += weight * sums.plain[set * channels + k] / count;
      along += weight * sums.along[set * channels + k] / count;
    }
    const float centre = call.group_mean[set * channels + c], r = call.group_scale[set * channels + c];
    const float shift = call.group_shift[set * channels + c];
    const float slope = model.norm_weight[c] * r, by_h = -r * static_cast<float>(along),
                constant = -r * static_cast<float>(mean);
    const auto at = [&](const Image& image, std::size_t h) {
      return static_cast<std::int64_t>(row) * image.stride_n + static_cast<std::int64_t>(c) * image.stride_c +
             static_cast<std::int64_t>(h) * image.stride_h;
    };
    // A piece at a time, on the stack: however wide the image, nothing is allocated.
    constexpr std::size_t kPiece = 256;
    float x[kPiece], d_output[kPiece], d[kPiece];
    for (std::size_t h = 0; h < call.height; ++h)
      for (std::size_t w = 0; w < call.width; w += kPiece) {
        const std::size_t here = std::min(kPiece, call.width - w);
        const auto offset = [&](const Image& image) {
          return at(image, h) + static_cast<std::int64_t>(w) * image.stride_w;
        };
        read_row(call.input, offset(call.input), here, x);
        read_row(backward.d_output, offset(backward.d_output), here, d_output);
        read_row(call.output, offset(call.output), here, d);
        for (std::size_t j = 0; j < here; ++j)
          d[j] = slope * d[j] + by_h * ((x[j] - centre) * r + shift) + constant + d_output[j];
        write_row(call.output, offset(call.output), here, d);
      }
  });
}

/// Parameters of the norms, of AdaLayerNorm and the like, and embeddings: what tiles have summed in double.
void finish_parameters(const BackwardCall& backward, const Weights& weights) {
  const Call& call = *backward.call;
  const PackedModel& model = *call.model;
  const BackwardSums& sums = *backward.sums;
  const WeightGradients& to = backward.gradients->weights;
  const std::size_t layers = model.blocks.size(), videos = call.videos, inner = model.inner;
  using Vector = std::vector<double>;
  Conditioning d_conditioning(layers, videos);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const BlockOf<MutableTensorView>& block = to.blocks[layer];
    const NormOf<MutableTensorView>* norms[3] = {&block.norm1, &block.norm2, &block.norm3};
    for (std::size_t which = 0; which < 3; ++which) {
      Vector weight(inner), bias(inner);
      for (std::size_t video = 0; video < videos; ++video) {
        const NormSums& s = sums.norms[(layer * 3 + which) * videos + video];
        if (s.along.empty()) continue;
        BlockConditioning& d_by = d_conditioning.at(layer, video);
        Vector* d_scale[3] = {&d_by.norm1_scale, &d_by.norm2_scale, &d_by.norm3_scale};
        Vector* d_shift[3] = {&d_by.norm1_shift, &d_by.norm2_shift, &d_by.norm3_shift};
        // n = (h w + b) (1 + by) + add: what the block's own norm is to the conditioning, whose factor is seen in the
        // modulated scale.
        const float* own = model.blocks[layer].norm_scale[which].data();
        const float* own_bias = model.blocks[layer].norm_shift[which].data();
        const Affine& modulated = call.modulation(layer, video).norm[which];
        const bool conditioned = modulated.scale != own;
        if (conditioned) {
          d_scale[which]->resize(inner);
          d_shift[which]->resize(inner);
        }
        for (std::size_t c = 0; c < inner; ++c) {
          double factor = 1.0;
          if (conditioned) {
            (*d_scale[which])[c] =
                s.along[c] * static_cast<double>(own[c]) + s.plain[c] * static_cast<double>(own_bias[c]);
            (*d_shift[which])[c] = s.plain[c];
            const BlockConditioning& by = backward.conditioning->at(layer, video);
            const Vector& scale = which == 0 ? by.norm1_scale : which == 1 ? by.norm2_scale : by.norm3_scale;
            factor += scale[c];
          }
          weight[c] += s.along[c] * factor;
          bias[c] += s.plain[c] * factor;
        }
      }
      from_doubles(weight, norms[which]->weight);
      from_doubles(bias, norms[which]->bias);
    }
    for (std::size_t video = 0; video < videos; ++video) {
      d_conditioning.at(layer, video).gate_attn1 = sums.gates[layer * 2 * videos + video];
      d_conditioning.at(layer, video).gate_ff = sums.gates[(layer * 2 + 1) * videos + video];
    }
  }
  conditioning_backward(model.config, weights, *call.inputs, d_conditioning, to);

  if (model.config.is_discrete()) {
    from_doubles(sums.latent, to.latent_emb);
    from_doubles(sums.height, to.latent_height_emb);
    from_doubles(sums.width, to.latent_width_emb);
    if (!sums.norm_out.along.empty()) {
      from_doubles(sums.norm_out.along, to.norm_out.weight);
      from_doubles(sums.norm_out.plain, to.norm_out.bias);
    }
  } else {
    Vector weight(model.channels), bias(model.channels);
    for (std::size_t i = 0; i < sums.group_norm.along.size(); ++i) {
      weight[i % model.channels] += sums.group_norm.along[i];
      bias[i % model.channels] += sums.group_norm.plain[i];
    }
    from_doubles(weight, to.norm.weight);
    from_doubles(bias, to.norm.bias);
  }
  if (!sums.encoder.empty()) from_doubles(sums.encoder, backward.gradients->encoder_hidden_states);
}

}  // namespace

BackwardPlan::BackwardPlan(const Weights& weights, const PackedModel& model, const Target& target)
    : weights_(weights),
      model_(model),
      target_(target),
      trained_(pack_trained(model.config, weights, trained_arithmetic(model), target.max_rows)) {}

void BackwardPlan::run(Call& call, const Conditioning& conditioning, const Gradients& gradients, const Image& d_output,
                       int threads) {
  const Pool<State>::Borrowed state(states_);
  clear(state->sums, call, gradients);
  // Tiles add to these in the caller's memory.
  each_linear(gradients.weights, [](const LinearOf<MutableTensorView>& linear) {
    for (const MutableTensorView* view : {&linear.weight, &linear.bias})
      if (*view) std::fill_n(static_cast<float*>(view->data()), view->numel(), 0.0f);
  });
  BackwardCall backward;
  backward.call = &call;
  backward.model = &trained_;
  backward.conditioning = &conditioning;
  backward.d_output = d_output;
  backward.gradients = &gradients;
  backward.sums = &state->sums;
  walk(backward, *state, threads);
  if (call.output.data != nullptr) finish_input(backward, threads);
  finish_parameters(backward, weights_);
}

void BackwardPlan::run_forward(Call& call, int threads) {
  const Pool<State>::Borrowed state(states_);
  BackwardCall backward;
  backward.call = &call;
  backward.model = &trained_;
  backward.d_output = call.output;
  backward.forward_only = true;
  walk(backward, *state, threads);
}

TileShape BackwardPlan::tile_shape(const Call& call) const {
  const auto shape = [&](std::size_t vectors) { return choose_tile(target_.lanes, call.frames, call.pixels, vectors); };
  std::size_t vectors = kTileTokens / target_.lanes;
  while (vectors > call.frames && BufferSizes(call, trained_, shape(vectors)).bytes() > kTileBytes) vectors /= 2;
  return shape(vectors);
}

void BackwardPlan::walk(const BackwardCall& backward, State& state, int threads) {
  Call& call = *backward.call;
  call.tiles_may_span_videos = false;
  const TileShape shape = tile_shape(call);
  const std::size_t walkers = walkers_of(tile_count(call, shape), threads);
  state.buffers.resize(walkers);
  // Each by the thread that is likely to use it: memory is near to who writes it first.
  const BufferSizes sizes(call, trained_, shape);
  for_each_index(threads, walkers, [&](std::size_t walker) { grow_all(state.buffers[walker], sizes); });
  const auto tile = [&](const Tile& t, Team& team, Turns& turns, std::size_t walker) {
    target_.walk_backward(backward, t, team, turns, state.buffers[walker]);
  };
  walk_tiles_in_order(call, shape, threads, walkers, scratch_sizes(call, target_), workspaces_, std::cref(tile));
}

}  // namespace kineograph::engine::cpu

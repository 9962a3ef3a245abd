#include "engine/reference/backward.h"

#include <cmath>

#include "base/threads.h"
#include "engine/epsilons.h"
#include "engine/progress.h"
#include "engine/ranks.h"

namespace kineograph::engine::reference {
namespace {

/// Sums over runs. `d_` as in ops.h.
struct Sums {
  Layers weights;
  Conditioning conditioning;
  Array encoder;  ///< as encoder_hidden_states, row-major
};

void add(Array& sum, const Array& more) {
  if (sum.empty()) sum.assign(more.size(), 0.0);
  for (std::size_t i = 0; i < more.size(); ++i) sum[i] += more[i];
}

void add(Conditioning& sum, const Conditioning& more, std::size_t layers, std::size_t videos) {
  for (std::size_t layer = 0; layer < layers; ++layer)
    for (std::size_t video = 0; video < videos; ++video) add(sum.at(layer, video), more.at(layer, video));
}

/// d_gate (I) += the tokens' sum of d_x y.
void add_gate(const Array& d_x, const Array& y, Array& d_gate, std::size_t width) {
  if (d_gate.empty()) d_gate.assign(width, 0.0);
  for (std::size_t i = 0; i < y.size(); ++i) d_gate[i % width] += d_x[i] * y[i];
}

/// gate * d_x, the gradient of what was added to the residual stream.
Array gated(const Array& d_x, const Array& gate) {
  Array d_y = d_x;
  if (!gate.empty())
    for (std::size_t i = 0; i < d_y.size(); ++i) d_y[i] *= gate[i % gate.size()];
  return d_y;
}

class Backward {
 public:
  Backward(const Passage& passage, const TensorView& d_output, Array& d_image, Sums& sums)
      : passage_(passage), in_(passage.inputs), d_output_(d_output), d_image_(d_image), sums_(sums) {}

  void run(const Run& run) {
    Array entered, normalised;
    Array x = passage_.enter(run, &entered);
    std::vector<BlockTape> tapes(passage_.layers.blocks.size());
    for (std::size_t layer = 0; layer < tapes.size(); ++layer) passage_.block(layer, run, x, &tapes[layer]);
    Array d_x = leave(run, x);
    for (std::size_t layer = tapes.size(); layer-- > 0;) block(layer, run, tapes[layer], d_x);
    enter(run, entered, d_x);
  }

 private:
  std::size_t tokens(const Run& run) const { return passage_.tokens(run); }

  /// The gradient by x in front of proj_out, or of norm_out.
  Array leave(const Run& run, const Array& x) {
    const bool discrete = passage_.config.is_discrete();
    const LinearLayer& last = discrete ? passage_.layers.out : passage_.layers.proj_out;
    const std::int64_t frames = in_.num_frames;
    const auto width = static_cast<std::int64_t>(last.rows);
    Array d_y(tokens(run) * last.rows);
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = 0; f < frames; ++f)
        for (std::int64_t c = 0; c < width; ++c) {
          const std::int64_t row = run.video * frames + f, pixel = run.first + p;
          const Dims& strides = d_output_.strides();
          d_y[static_cast<std::size_t>((p * frames + f) * width + c)] =
              read(d_output_, discrete ? row * strides[0] + c * strides[1] + pixel * strides[2]
                                       : passage_.offset(d_output_, row, c, pixel));
        }
    if (!discrete) return linear_backward(last, x, d_y, tokens(run), sums_.weights.proj_out);
    Array n;
    const Array y = passage_.classify(run, x, &n);
    const Array d_n =
        linear_backward(last, n, log_softmax_backward(y, d_y, tokens(run), last.rows), tokens(run), sums_.weights.out);
    return layer_norm_backward(x, d_n, tokens(run), passage_.inner, passage_.layers.norm_out.weight, kNormOutEpsilon,
                               sums_.weights.norm_out.weight, sums_.weights.norm_out.bias);
  }

  /// Of x in front of the blocks: the embeddings, or proj_in and GroupNorm's output, which goes to d_image.
  void enter(const Run& run, const Array& entered, const Array& d_x) {
    const std::int64_t frames = in_.num_frames, channels = in_.channels, pixels = in_.height * in_.width;
    const std::size_t inner = passage_.inner;
    Array d_entered;
    if (!passage_.config.is_discrete())
      d_entered = linear_backward(passage_.layers.proj_in, entered, d_x, tokens(run), sums_.weights.proj_in);
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = 0; f < frames; ++f) {
        const std::int64_t row = run.video * frames + f, pixel = run.first + p;
        const auto token = static_cast<std::size_t>(p * frames + f);
        if (passage_.config.is_discrete()) {
          const Dims& strides = in_.hidden_states.strides();
          const std::int64_t id = in_.hidden_states.data_as<std::int64_t>()[row * strides[0] + pixel * strides[1]];
          for (std::size_t c = 0; c < inner; ++c) {
            const double d = d_x[token * inner + c];
            sums_.weights.latent_emb[static_cast<std::size_t>(id) * inner + c] += d;
            sums_.weights.latent_height_emb[static_cast<std::size_t>(in_.first_row + pixel / in_.width) * inner + c] +=
                d;
            sums_.weights.latent_width_emb[static_cast<std::size_t>(pixel % in_.width) * inner + c] += d;
          }
        } else {
          for (std::int64_t c = 0; c < channels; ++c)
            d_image_[static_cast<std::size_t>((row * channels + c) * pixels + pixel)] =
                d_entered[token * static_cast<std::size_t>(channels) + static_cast<std::size_t>(c)];
        }
      }
  }

  /// d_x: of the block's output, then of its input.
  void block(std::size_t layer, const Run& run, const BlockTape& tape, Array& d_x) {
    const BlockLayers& block = passage_.layers.blocks[layer];
    BlockLayers& sums = sums_.weights.blocks[layer];
    advance(in_.progress, 0);
    const auto video = static_cast<std::size_t>(run.video);
    const BlockConditioning& by = passage_.conditioning.at(layer, video);
    BlockConditioning& d_by = sums_.conditioning.at(layer, video);

    if (!by.gate_ff.empty()) add_gate(d_x, tape.y, d_by.gate_ff, passage_.inner);
    Array d_hidden = linear_backward(block.ff_out, tape.hidden, gated(d_x, by.gate_ff), tokens(run), sums.ff_out);
    passage_.drop(passage_.dropout(layer, DropoutSite::feed_forward), run, block.ff_out.cols, d_hidden);
    const Array d_projected =
        activate_backward(passage_.config.activation_fn, tape.projected, d_hidden, tokens(run), block.ff_out.cols);
    Array d_n = linear_backward(block.ff_in, tape.n3, d_projected, tokens(run), sums.ff_in);
    add(d_x, normalise(block.norm3, tape.x2, d_n, norm_epsilon(passage_.config, 2), by.norm3_scale, sums.norm3,
                       d_by.norm3_scale, d_by.norm3_shift));

    if (passage_.config.has_attn2()) {
      d_n = attention(layer, 2, run, tape.n2, tape.attn2, d_x);
      add(d_x, normalise(block.norm2, tape.x1, d_n, norm_epsilon(passage_.config, 1), by.norm2_scale, sums.norm2,
                         d_by.norm2_scale, d_by.norm2_shift));
    }

    if (!by.gate_attn1.empty()) add_gate(d_x, tape.attn1.y, d_by.gate_attn1, passage_.inner);
    d_n = attention(layer, 1, run, tape.n1, tape.attn1, gated(d_x, by.gate_attn1));
    add(d_x, normalise(block.norm1, tape.x0, d_n, norm_epsilon(passage_.config, 0), by.norm1_scale, sums.norm1,
                       d_by.norm1_scale, d_by.norm1_shift));
  }

  /// Of x, from d_n of n = norm(x) (1 + scale) + shift.
  Array normalise(const NormLayer& norm, const Array& x, const Array& d_n, double epsilon, const Array& scale,
                  NormLayer& sums, Array& d_scale, Array& d_shift) {
    const std::size_t inner = passage_.inner, count = x.size() / inner;
    Array d_normed = d_n;
    if (!scale.empty()) {
      const Array normed = layer_norm(x, count, inner, norm.weight, norm.bias, epsilon);
      add_gate(d_n, normed, d_scale, inner);
      add_gate(d_n, Array(d_n.size(), 1.0), d_shift, inner);
      for (std::size_t i = 0; i < d_n.size(); ++i) d_normed[i] *= 1.0 + scale[i % inner];
    }
    return layer_norm_backward(x, d_normed, count, inner, norm.weight, epsilon, sums.weight, sums.bias);
  }

  /// Of the normalised tokens n, from d_y of the attention's output.
  Array attention(std::size_t layer, int which, const Run& run, const Array& n, const AttentionTape& tape, Array d_y) {
    const BlockLayers& block = passage_.layers.blocks[layer];
    BlockLayers& block_sums = sums_.weights.blocks[layer];
    const AttentionLayer& weights = which == 1 ? block.attn1 : block.attn2;
    AttentionLayer& sums = which == 1 ? block_sums.attn1 : block_sums.attn2;
    const std::size_t inner = passage_.inner, head_dim = passage_.head_dim;
    const auto frames = static_cast<std::size_t>(in_.num_frames), pixels = static_cast<std::size_t>(run.count);
    const bool conditioned = !tape.context.empty();
    const bool shared = conditioned && in_.encoder_per_video;
    const std::size_t context_count = tape.k.size() / inner, keys = shared ? context_count : context_count / pixels;

    passage_.drop(passage_.dropout(layer, which == 1 ? DropoutSite::attn1 : DropoutSite::attn2), run, inner, d_y);
    const Array d_attended = linear_backward(weights.to_out, tape.attended, d_y, tokens(run), sums.to_out);
    Array d_q(tape.q.size()), d_k(tape.k.size()), d_v(tape.v.size());
    for (std::size_t p = 0; p < pixels; ++p)
      for (std::size_t h = 0; h < passage_.heads; ++h) {
        const std::size_t kv = (shared ? 0 : p * keys * inner) + h * head_dim, qo = p * frames * inner + h * head_dim;
        attend_backward(tape.q.data() + qo, inner, frames, tape.k.data() + kv, tape.v.data() + kv, inner, keys,
                        head_dim, passage_.attention_scale(), d_attended.data() + qo, d_q.data() + qo, d_k.data() + kv,
                        d_v.data() + kv);
      }
    Array d_n = linear_backward(weights.to_q, n, d_q, tokens(run), sums.to_q);
    const Array& context = conditioned ? tape.context : n;
    Array d_context = linear_backward(weights.to_k, context, d_k, context_count, sums.to_k);
    add(d_context, linear_backward(weights.to_v, context, d_v, context_count, sums.to_v));
    if (!conditioned) {
      add(d_n, d_context);
      return d_n;
    }
    const std::int64_t row = shared ? run.video : run.video * in_.height * in_.width + run.first;
    const std::size_t first = static_cast<std::size_t>(row) * keys * weights.to_k.cols;
    for (std::size_t i = 0; i < d_context.size(); ++i) sums_.encoder[first + i] += d_context[i];
    return d_n;
  }

  const Passage& passage_;
  const Inputs& in_;
  const TensorView& d_output_;
  Array& d_image_;
  Sums& sums_;
};

/// GroupNorm's backward. With h = (x - mean) r and g = d_n weight: d_x = r (g - mean(g) - h mean(g h)) over each set of
/// statistics, and the residual's d_output.
class GroupNormBackward {
 public:
  GroupNormBackward(const Passage& passage, const Array& d_image)
      : passage_(passage), in_(passage.inputs), d_image_(d_image) {}

  void run(const TensorView& d_output, const MutableTensorView& d_input, NormLayer& sums) {
    Array rows = sum_rows(sums);
    if (!d_input) return;
    if (in_.ranks != nullptr) rows = in_.ranks->gather_sums(rows);
    const std::int64_t total = in_.picture_rows();
    const auto count = static_cast<double>(frames_ * per_group_ * total * in_.width);
    each_set([&](std::int64_t set, std::int64_t group) {
      double mean = 0.0, along = 0.0;
      for (std::int64_t h = 0; h < total; ++h) {
        const std::size_t at = 2 * static_cast<std::size_t>((set * total + h) * groups_ + group);
        mean += rows[at] / count;
        along += rows[at + 1] / count;
      }
      const double inverse = inverse_of(set, group);
      for (std::int64_t h = 0; h < in_.height; ++h)
        each(set, group, h, [&](std::int64_t row, std::int64_t c, std::int64_t pixel, double n, double d) {
          write(
              d_input, passage_.offset(d_input, row, c, pixel),
              inverse * (d * weight(c) - mean - n * along) + read(d_output, passage_.offset(d_output, row, c, pixel)));
        });
    });
  }

 private:
  template <class Visit>
  void each_set(Visit&& visit) const {
    for (std::int64_t set = 0; set < in_.num_videos * in_.num_frames / frames_; ++set)
      for (std::int64_t group = 0; group < groups_; ++group) visit(set, group);
  }

  /// visit(row b*F+f, channel, pixel, h, d_n) for the values of a set and group in one row of pixels.
  template <class Visit>
  void each(std::int64_t set, std::int64_t group, std::int64_t h, Visit&& visit) const {
    const MeanVariance& m = passage_.statistics(set * frames_, group * per_group_);
    const double inverse = inverse_of(set, group);
    const std::int64_t pixels = in_.height * in_.width;
    for (std::int64_t row = set * frames_; row < (set + 1) * frames_; ++row)
      for (std::int64_t c = group * per_group_; c < (group + 1) * per_group_; ++c)
        for (std::int64_t pixel = h * in_.width; pixel < (h + 1) * in_.width; ++pixel)
          visit(row, c, pixel,
                (read(in_.hidden_states, passage_.offset(in_.hidden_states, row, c, pixel)) - m.mean) * inverse,
                d_image_[static_cast<std::size_t>((row * in_.channels + c) * pixels + pixel)]);
  }

  /// The sums of g and of g h in every row of pixels, (sets, H, groups, 2); and the norm's own gradients.
  Array sum_rows(NormLayer& sums) const {
    Array rows(static_cast<std::size_t>(2 * in_.num_videos * in_.num_frames / frames_ * in_.height * groups_));
    each_set([&](std::int64_t set, std::int64_t group) {
      for (std::int64_t h = 0; h < in_.height; ++h) {
        const std::size_t at = 2 * static_cast<std::size_t>((set * in_.height + h) * groups_ + group);
        each(set, group, h, [&](std::int64_t, std::int64_t c, std::int64_t, double n, double d) {
          sums.weight[static_cast<std::size_t>(c)] += d * n;
          sums.bias[static_cast<std::size_t>(c)] += d;
          rows[at] += d * weight(c);
          rows[at + 1] += d * weight(c) * n;
        });
      }
    });
    return rows;
  }

  double inverse_of(std::int64_t set, std::int64_t group) const {
    return 1.0 / std::sqrt(passage_.statistics(set * frames_, group * per_group_).variance + kGroupNormEpsilon);
  }
  double weight(std::int64_t c) const { return passage_.layers.norm.weight[static_cast<std::size_t>(c)]; }

  const Passage& passage_;
  const Inputs& in_;
  const Array& d_image_;
  std::int64_t groups_ = passage_.config.norm_num_groups, per_group_ = in_.channels / groups_;
  std::int64_t frames_ = passage_.scope == GroupNormScope::frame ? 1 : in_.num_frames;  ///< of a set
};

}  // namespace

void run_backward(const Passage& passage, const Weights& weights, const TensorView& d_output,
                  const Gradients& gradients, int threads) {
  const Inputs& in = passage.inputs;
  const Runs runs(in);
  const auto workers = static_cast<std::int64_t>(threads);
  const std::size_t layers = passage.layers.blocks.size(), videos = static_cast<std::size_t>(in.num_videos);
  const std::size_t encoder = in.encoder_hidden_states ? static_cast<std::size_t>(in.encoder_hidden_states.numel()) : 0;
  std::vector<Sums> sums(static_cast<std::size_t>(workers));
  Array d_image(passage.config.is_discrete() ? 0 : static_cast<std::size_t>(in.hidden_states.numel()));
  expect(in.progress, static_cast<std::size_t>(runs.size()));
  parallel_for(workers, threads, in.executor, [&](std::int64_t worker) {
    Sums& own = sums[static_cast<std::size_t>(worker)];
    own = {zeros_like(passage.layers), Conditioning(layers, videos), Array(encoder)};
    Backward backward(passage, d_output, d_image, own);
    for (std::int64_t i = worker; i < runs.size(); i += workers) {
      backward.run(runs[i]);
      advance(in.progress);
    }
  });
  Sums& total = sums.front();
  for (std::size_t worker = 1; worker < sums.size(); ++worker) {
    add(total.weights, sums[worker].weights);
    add(total.conditioning, sums[worker].conditioning, layers, videos);
    add(total.encoder, sums[worker].encoder);
  }
  if (!passage.config.is_discrete())
    GroupNormBackward(passage, d_image).run(d_output, gradients.hidden_states, total.weights.norm);
  conditioning_backward(passage.config, weights, in, total.conditioning, gradients.weights);
  if (gradients.encoder_hidden_states) from_doubles(total.encoder, gradients.encoder_hidden_states);
  store(total.weights, gradients.weights);
}

}  // namespace kineograph::engine::reference

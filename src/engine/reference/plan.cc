// The reference engine: every layer in turn over a run of pixels, in double from the first operation to the last.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "base/half.h"
#include "engine/conditioning.h"
#include "engine/engine.h"
#include "engine/reference/ops.h"
#include "kineograph/error.h"

namespace kineograph::engine::reference {
namespace {

/// Pixels that go through the layers together; only bounds memory.
constexpr std::int64_t kRunPixels = 16;

struct NormLayer {
  Array weight, bias;
};

struct AttentionLayer {
  LinearLayer to_q, to_k, to_v, to_out;
};

struct BlockLayers {
  NormLayer norm1, norm2, norm3;
  AttentionLayer attn1, attn2;
  LinearLayer ff_in, ff_out;
  Array pe;  // (N, I) or empty
};

LinearLayer load(const Linear& from) {
  LinearLayer layer;
  if (!from.weight) return layer;
  layer.rows = static_cast<std::size_t>(from.weight.size(0));
  layer.cols = static_cast<std::size_t>(from.weight.size(1));
  layer.weight = to_doubles(from.weight);
  if (from.bias) layer.bias = to_doubles(from.bias);
  return layer;
}

NormLayer load(const Norm& from) {
  return {from.weight ? to_doubles(from.weight) : Array{}, from.bias ? to_doubles(from.bias) : Array{}};
}

AttentionLayer load(const Attention& from) {
  return {load(from.to_q), load(from.to_k), load(from.to_v), load(from.to_out)};
}

/// Pixels [first, first + count) of one video.
struct Run {
  std::int64_t video, first, count;
};

double read(const TensorView& view, std::int64_t offset) { return element(view, offset); }

void write(const MutableTensorView& view, std::int64_t offset, double value) {
  dispatch_floating(view.dtype(), [&]<class T>(T) {
    if constexpr (std::is_same_v<T, double>)
      static_cast<double*>(view.data())[offset] = value;
    else
      static_cast<T*>(view.data())[offset] = from_float<T>(static_cast<float>(value));
  });
}

class ReferencePlan : public Plan {
 public:
  ReferencePlan(const TransformerTemporalConfig& config, const Weights& weights)
      : config_(config),
        weights_(weights),
        inner_(static_cast<std::size_t>(config.inner_dim())),
        heads_(static_cast<std::size_t>(config.num_attention_heads)),
        head_dim_(static_cast<std::size_t>(config.attention_head_dim)),
        norm_(load(weights.norm)),
        proj_in_(load(weights.proj_in)),
        proj_out_(load(weights.proj_out)) {
    for (const Block& block : weights.blocks)
      blocks_.push_back({load(block.norm1), load(block.norm2), load(block.norm3), load(block.attn1), load(block.attn2),
                         load(block.ff_in), load(block.ff_out), block.pe ? to_doubles(block.pe) : Array{}});
    if (config.is_discrete()) {
      latent_emb_ = to_doubles(weights.latent_emb);
      latent_height_emb_ = to_doubles(weights.latent_height_emb);
      latent_width_emb_ = to_doubles(weights.latent_width_emb);
      norm_out_ = load(weights.norm_out);
      out_ = load(weights.out);
    }
  }

  std::string_view isa() const noexcept override { return "portable"; }
  DType compute_dtype() const noexcept override { return DType::f64; }

  std::size_t workspace_bytes(const Inputs& inputs) const override {
    // The widest moment of a run: the feed-forward's projection beside its activation and the residual stream.
    const auto tokens = static_cast<std::size_t>(kRunPixels * inputs.num_frames);
    return tokens * inner_ * 16 * sizeof(double) * static_cast<std::size_t>(threads_of(inputs));
  }

  void forward(const Inputs& inputs, const MutableTensorView& output) const override {
    const Conditioning conditioning = compute_conditioning(config_, weights_, inputs);
    const std::vector<MeanVariance> statistics =
        config_.is_discrete() ? std::vector<MeanVariance>{} : group_statistics(inputs);
    const std::int64_t pixels = inputs.height * inputs.width;
    const std::int64_t runs_per_video = (pixels + kRunPixels - 1) / kRunPixels;
    for_each(inputs.num_videos * runs_per_video, threads_of(inputs), [&](std::int64_t i) {
      const Run run{i / runs_per_video, i % runs_per_video * kRunPixels,
                    std::min(kRunPixels, pixels - i % runs_per_video * kRunPixels)};
      Array x = config_.is_discrete() ? embed(inputs, run) : project_in(inputs, statistics, run);
      for (std::size_t layer = 0; layer < blocks_.size(); ++layer)
        run_block(inputs, layer, conditioning.at(layer, static_cast<std::size_t>(run.video)), run, x);
      if (config_.is_discrete())
        classify(inputs, run, x, output);
      else
        project_out(inputs, run, x, output);
    });
  }

 private:
  static int threads_of(const Inputs& inputs) {
    return inputs.num_threads > 0 ? inputs.num_threads
                                  : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }

  /// Calls body(i) for i in [0, count) on some threads; the first exception is passed on.
  template <class Body>
  static void for_each(std::int64_t count, int threads, Body&& body) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto work = [&] {
      try {
        for (std::int64_t i = next++; i < count; i = next++) body(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next = count;
      }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < std::min<std::int64_t>(threads, count); ++t) others.emplace_back(work);
    work();
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
  }

  static std::int64_t offset_of(const TensorView& view, std::int64_t row, std::int64_t channel, std::int64_t pixel,
                                std::int64_t width) {
    return row * view.strides()[0] + channel * view.strides()[1] + pixel / width * view.strides()[2] +
           pixel % width * view.strides()[3];
  }

  /// GroupNorm's statistics: (B, groups) over (C/groups, F, H, W), or (B*F, groups) over (C/groups, H, W).
  std::vector<MeanVariance> group_statistics(const Inputs& in) const {
    const bool per_frame = config_.group_norm_scope == GroupNormScope::frame;
    const std::int64_t frames = per_frame ? 1 : in.num_frames, sets = in.num_videos * in.num_frames / frames;
    const std::int64_t groups = config_.norm_num_groups, per_group = in.channels / groups;
    const std::int64_t pixels = in.height * in.width;
    std::vector<MeanVariance> all(static_cast<std::size_t>(sets * groups));
    for_each(sets * groups, threads_of(in), [&](std::int64_t i) {
      const std::int64_t set = i / groups, group = i % groups;
      const auto each = [&](auto&& visit) {
        for (std::int64_t f = 0; f < frames; ++f)
          for (std::int64_t c = group * per_group; c < (group + 1) * per_group; ++c)
            for (std::int64_t p = 0; p < pixels; ++p)
              visit(read(in.hidden_states, offset_of(in.hidden_states, set * frames + f, c, p, in.width)));
      };
      const auto count = static_cast<double>(frames * per_group * pixels);
      MeanVariance m;
      each([&](double v) { m.mean += v; });
      m.mean /= count;
      each([&](double v) { m.variance += (v - m.mean) * (v - m.mean); });
      m.variance /= count;
      all[static_cast<std::size_t>(i)] = m;
    });
    return all;
  }

  /// (B*F, C, H, W) -> group norm -> (pixels, F, C) -> proj_in -> x (pixels * F, I)
  Array project_in(const Inputs& in, const std::vector<MeanVariance>& statistics, const Run& run) const {
    const std::int64_t frames = in.num_frames, channels = in.channels;
    const std::int64_t per_group = channels / config_.norm_num_groups;
    Array tokens(static_cast<std::size_t>(run.count * frames * channels));
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = 0; f < frames; ++f) {
        const std::int64_t row = run.video * frames + f;
        const std::int64_t set = config_.group_norm_scope == GroupNormScope::frame ? row : run.video;
        for (std::int64_t c = 0; c < channels; ++c) {
          const MeanVariance& m = statistics[static_cast<std::size_t>(set * config_.norm_num_groups + c / per_group)];
          const double v = read(in.hidden_states, offset_of(in.hidden_states, row, c, run.first + p, in.width));
          const auto channel = static_cast<std::size_t>(c);
          tokens[static_cast<std::size_t>((p * frames + f) * channels + c)] =
              (v - m.mean) / std::sqrt(m.variance + 1e-6) * norm_.weight[channel] + norm_.bias[channel];
        }
      }
    return linear(proj_in_, tokens, static_cast<std::size_t>(run.count * frames));
  }

  /// Class, row and column embeddings, summed -> x (pixels * F, I)
  Array embed(const Inputs& in, const Run& run) const {
    const std::int64_t frames = in.num_frames;
    const auto* classes = in.hidden_states.data_as<std::int64_t>();
    Array x(static_cast<std::size_t>(run.count * frames) * inner_);
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = 0; f < frames; ++f) {
        const std::int64_t pixel = run.first + p;
        const auto id = static_cast<std::size_t>(
            classes[(run.video * frames + f) * in.hidden_states.strides()[0] + pixel * in.hidden_states.strides()[1]]);
        const auto row = static_cast<std::size_t>(pixel / in.width), col = static_cast<std::size_t>(pixel % in.width);
        for (std::size_t c = 0; c < inner_; ++c)
          x[static_cast<std::size_t>(p * frames + f) * inner_ + c] =
              latent_emb_[id * inner_ + c] + latent_height_emb_[row * inner_ + c] + latent_width_emb_[col * inner_ + c];
      }
    return x;
  }

  /// One BasicTransformerBlock on x (pixels * F, I), in place.
  void run_block(const Inputs& in, std::size_t layer, const BlockConditioning& conditioning, const Run& run,
                 Array& x) const {
    const BlockLayers& block = blocks_[layer];
    const std::size_t tokens = static_cast<std::size_t>(run.count * in.num_frames);
    const double epsilon1 = config_.norm_type == NormType::ada_norm_zero ? 1e-6 : 1e-5;

    Array n = layer_norm(x, tokens, inner_, block.norm1.weight, block.norm1.bias, epsilon1);
    scale_and_shift(n, conditioning.norm1_scale, conditioning.norm1_shift);
    add_positions(n, block.pe, static_cast<std::size_t>(in.num_frames));
    add(x, attention(in, layer, 1, block.attn1, n, run), conditioning.gate_attn1);

    if (config_.has_attn2()) {
      n = layer_norm(x, tokens, inner_, block.norm2.weight, block.norm2.bias, 1e-5);
      scale_and_shift(n, conditioning.norm2_scale, conditioning.norm2_shift);
      add_positions(n, block.pe, static_cast<std::size_t>(in.num_frames));
      add(x, attention(in, layer, 2, block.attn2, n, run), {});
    }

    n = layer_norm(x, tokens, inner_, block.norm3.weight, block.norm3.bias, 1e-5);
    scale_and_shift(n, conditioning.norm3_scale, conditioning.norm3_shift);
    const Array hidden = activate(config_.activation_fn, linear(block.ff_in, n, tokens), tokens, block.ff_out.cols);
    add(x, linear(block.ff_out, hidden, tokens), conditioning.gate_ff);
  }

  /// n = n * (1 + scale) + shift over (T, I)
  void scale_and_shift(Array& n, const Array& scale, const Array& shift) const {
    if (scale.empty()) return;
    for (std::size_t i = 0; i < n.size(); ++i) n[i] = n[i] * (1.0 + scale[i % inner_]) + shift[i % inner_];
  }

  /// n (pixels, F, I) += pe[:F]
  void add_positions(Array& n, const Array& pe, std::size_t frames) const {
    if (pe.empty()) return;
    for (std::size_t i = 0; i < n.size(); ++i) n[i] += pe[i % (frames * inner_)];
  }

  /// x += gate * y
  void add(Array& x, const Array& y, const Array& gate) const {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += gate.empty() ? y[i] : gate[i % inner_] * y[i];
  }

  /// attn1 or attn2 of n (pixels * F, I), through to_out.
  Array attention(const Inputs& in, std::size_t layer, int which, const AttentionLayer& attention, const Array& n,
                  const Run& run) const {
    const std::size_t frames = static_cast<std::size_t>(in.num_frames), pixels = static_cast<std::size_t>(run.count);
    const bool conditioned = which == 2 && in.encoder_hidden_states;
    const bool shared = conditioned && in.encoder_per_video;
    const std::size_t keys = conditioned ? static_cast<std::size_t>(in.encoder_hidden_states.size(1)) : frames;
    const Array context = conditioned ? context_tokens(in, run) : Array{};
    const std::size_t context_count = shared ? keys : pixels * keys;
    const Array q = linear(attention.to_q, n, pixels * frames);
    const Array k = linear(attention.to_k, conditioned ? context : n, context_count);
    const Array v = linear(attention.to_v, conditioned ? context : n, context_count);
    Array out(pixels * frames * inner_);

    const std::size_t index = 2 * layer + static_cast<std::size_t>(which - 1);
    AttentionProcessor* processor = in.processors.empty() ? nullptr : in.processors[index];
    const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim_));
    if (processor != nullptr) {
      const auto size = [](std::size_t s) { return static_cast<std::int64_t>(s); };
      // (sequences, heads, tokens, head_dim) over memory that is (sequences, tokens, heads, head_dim).
      const auto shape = [&](std::size_t count) -> Shape {
        return {run.count, size(heads_), size(count), size(head_dim_)};
      };
      const auto strides = [&](std::size_t count, bool same) -> Dims {
        return {same ? 0 : size(count * inner_), size(head_dim_), size(inner_), 1};
      };
      const std::string name = "transformer_blocks." + std::to_string(layer) + ".attn" + std::to_string(which);
      AttentionCall call;
      call.name = name;
      call.layer = size(layer);
      call.attention = which;
      call.video = run.video;
      call.num_videos = in.num_videos;
      call.first_pixel = run.first;
      call.num_pixels = in.height * in.width;
      call.scale = scale;
      call.query = {q.data(), DType::f64, shape(frames), strides(frames, false)};
      call.key = {k.data(), DType::f64, shape(keys), strides(keys, shared)};
      call.value = {v.data(), DType::f64, shape(keys), strides(keys, shared)};
      call.output = {out.data(), DType::f64, shape(frames), strides(frames, false)};
      call.cross_attention_kwargs = in.cross_attention_kwargs;
      (*processor)(call);
    } else {
      for (std::size_t p = 0; p < pixels; ++p)
        for (std::size_t h = 0; h < heads_; ++h) {
          const std::size_t kv = (shared ? 0 : p * keys * inner_) + h * head_dim_,
                            qo = p * frames * inner_ + h * head_dim_;
          attend(q.data() + qo, inner_, frames, k.data() + kv, v.data() + kv, inner_, keys, head_dim_, scale,
                 out.data() + qo, inner_);
        }
    }
    return linear(attention.to_out, out, pixels * frames);
  }

  /// encoder_hidden_states of the run: (S, D) of the video, or (pixels, S, D).
  Array context_tokens(const Inputs& in, const Run& run) const {
    const TensorView& e = in.encoder_hidden_states;
    const std::int64_t rows = in.encoder_per_video ? 1 : run.count;
    const std::int64_t first = in.encoder_per_video ? run.video : run.video * in.height * in.width + run.first;
    Array tokens;
    tokens.reserve(static_cast<std::size_t>(rows * e.size(1) * e.size(2)));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t s = 0; s < e.size(1); ++s)
        for (std::int64_t c = 0; c < e.size(2); ++c)
          tokens.push_back(read(e, (first + r) * e.strides()[0] + s * e.strides()[1] + c * e.strides()[2]));
    return tokens;
  }

  /// x -> proj_out -> (B*F, C, H, W), plus the input.
  void project_out(const Inputs& in, const Run& run, const Array& x, const MutableTensorView& output) const {
    const std::int64_t frames = in.num_frames, channels = in.channels;
    const Array y = linear(proj_out_, x, static_cast<std::size_t>(run.count * frames));
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = 0; f < frames; ++f)
        for (std::int64_t c = 0; c < channels; ++c) {
          const std::int64_t row = run.video * frames + f, pixel = run.first + p;
          const double residual = read(in.hidden_states, offset_of(in.hidden_states, row, c, pixel, in.width));
          write(output, offset_of(output, row, c, pixel, in.width),
                y[static_cast<std::size_t>((p * frames + f) * channels + c)] + residual);
        }
  }

  /// x -> norm_out -> out -> log_softmax -> (B*F, V-1, H*W)
  void classify(const Inputs& in, const Run& run, const Array& x, const MutableTensorView& output) const {
    const std::int64_t frames = in.num_frames, classes = *config_.num_vector_embeds - 1;
    const std::size_t tokens = static_cast<std::size_t>(run.count * frames);
    const Array n = layer_norm(x, tokens, inner_, norm_out_.weight, norm_out_.bias, 1e-5);
    const Array y = log_softmax(linear(out_, n, tokens), tokens, static_cast<std::size_t>(classes));
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = 0; f < frames; ++f)
        for (std::int64_t k = 0; k < classes; ++k)
          write(output,
                (run.video * frames + f) * output.strides()[0] + k * output.strides()[1] +
                    (run.first + p) * output.strides()[2],
                y[static_cast<std::size_t>((p * frames + f) * classes + k)]);
  }

  TransformerTemporalConfig config_;
  Weights weights_;
  std::size_t inner_, heads_, head_dim_;
  NormLayer norm_;
  LinearLayer proj_in_, proj_out_;
  std::vector<BlockLayers> blocks_;
  Array latent_emb_, latent_height_emb_, latent_width_emb_;
  NormLayer norm_out_;
  LinearLayer out_;
};

class ReferenceEngine : public Engine {
 public:
  std::string_view name() const noexcept override { return "reference"; }
  std::vector<std::string> instruction_sets() const override { return {"portable"}; }
  std::unique_ptr<const Plan> prepare(const TransformerTemporalConfig& config, const Weights& weights,
                                      const PrepareOptions& options) const override {
    if (!options.isa.empty() && options.isa != "portable")
      throw ArgumentError("instruction set of engine reference", "portable", options.isa);
    return std::make_unique<ReferencePlan>(config, weights);
  }
};

}  // namespace
}  // namespace kineograph::engine::reference

namespace kineograph::engine {

const Engine& reference_engine() {
  static const reference::ReferenceEngine engine;
  return engine;
}

}  // namespace kineograph::engine

#include "engine/reference/passage.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/half.h"
#include "base/threads.h"
#include "engine/epsilons.h"
#include "engine/progress.h"
#include "engine/ranks.h"

namespace kineograph::engine::reference {
namespace {

/// n = n * (1 + scale) + shift over (T, I)
void scale_and_shift(Array& n, const Array& scale, const Array& shift) {
  if (scale.empty()) return;
  for (std::size_t i = 0; i < n.size(); ++i) n[i] = n[i] * (1.0 + scale[i % scale.size()]) + shift[i % scale.size()];
}

/// x += gate * y
void add_gated(Array& x, const Array& y, const Array& gate) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += gate.empty() ? y[i] : gate[i % gate.size()] * y[i];
}

}  // namespace

double read(const TensorView& view, std::int64_t offset) { return element(view, offset); }

void write(const MutableTensorView& view, std::int64_t offset, double value) {
  dispatch_floating(view.dtype(), [&]<class T>(T) {
    if constexpr (std::is_same_v<T, double>)
      static_cast<double*>(view.data())[offset] = value;
    else
      static_cast<T*>(view.data())[offset] = from_float<T>(static_cast<float>(value));
  });
}

/// Rows of encoder_hidden_states, or of another view (E, S, D).
static Array tokens_of(const TensorView& e, std::int64_t first, std::int64_t rows) {
  Array all;
  all.reserve(static_cast<std::size_t>(rows * e.size(1) * e.size(2)));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t s = 0; s < e.size(1); ++s)
      for (std::int64_t c = 0; c < e.size(2); ++c)
        all.push_back(read(e, (first + r) * e.strides()[0] + s * e.strides()[1] + c * e.strides()[2]));
  return all;
}

Passage::Passage(const TransformerConfig& config_in, GroupNormScope scope_in, const Layers& layers_in,
                 const Inputs& inputs_in, const Conditioning& conditioning_in)
    : config(config_in),
      layers(layers_in),
      inputs(inputs_in),
      conditioning(conditioning_in),
      scope(scope_in),
      inner(static_cast<std::size_t>(config_in.inner_dim())),
      heads(static_cast<std::size_t>(config_in.num_attention_heads)),
      head_dim(static_cast<std::size_t>(config_in.attention_head_dim)) {}

double Passage::attention_scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim)); }

void Passage::take_statistics(int threads) {
  const bool per_frame = scope == GroupNormScope::frame;
  const std::int64_t frames = per_frame ? 1 : inputs.num_frames, sets = inputs.num_videos * inputs.num_frames / frames;
  const std::int64_t groups = config.norm_num_groups, per_group = inputs.channels / groups;
  // Of a row of pixels each, (sets, H, groups): the rows of a picture may be several processes'.
  std::vector<Moments> rows(static_cast<std::size_t>(sets * inputs.height * groups));
  parallel_for(sets * groups, threads, inputs.executor, [&](std::int64_t i) {
    const std::int64_t set = i / groups, group = i % groups;
    for (std::int64_t h = 0; h < inputs.height; ++h) {
      const auto each = [&](auto&& visit) {
        for (std::int64_t f = 0; f < frames; ++f)
          for (std::int64_t c = group * per_group; c < (group + 1) * per_group; ++c)
            for (std::int64_t p = h * inputs.width; p < (h + 1) * inputs.width; ++p)
              visit(read(inputs.hidden_states, offset(inputs.hidden_states, set * frames + f, c, p)));
      };
      Moments m;
      m.count = static_cast<double>(frames * per_group * inputs.width);
      each([&](double v) { m.mean += v; });
      m.mean /= m.count;
      each([&](double v) { m.m2 += (v - m.mean) * (v - m.mean); });
      rows[static_cast<std::size_t>((set * inputs.height + h) * groups + group)] = m;
    }
  });
  if (inputs.ranks != nullptr) rows = inputs.ranks->gather_moments(rows);
  statistics_.clear();
  for (std::int64_t i = 0; i < sets * groups; ++i) {
    Moments all;
    for (std::int64_t h = 0; h < inputs.picture_rows(); ++h)
      append(all, rows[static_cast<std::size_t>((i / groups * inputs.picture_rows() + h) * groups + i % groups)]);
    statistics_.push_back({all.mean, all.m2 / all.count});
  }
}

const MeanVariance& Passage::statistics(std::int64_t row, std::int64_t channel) const {
  const std::int64_t set = scope == GroupNormScope::frame ? row : row / inputs.num_frames;
  const std::int64_t group = channel / (inputs.channels / config.norm_num_groups);
  return statistics_[static_cast<std::size_t>(set * config.norm_num_groups + group)];
}

Array Passage::enter(const Run& run, Array* normalised) const {
  const std::int64_t frames = inputs.num_frames, channels = inputs.channels;
  if (config.is_discrete()) {
    // Class, row and column embeddings, summed.
    const auto* classes = inputs.hidden_states.data_as<std::int64_t>();
    const Dims& strides = inputs.hidden_states.strides();
    Array x(tokens(run) * inner);
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = 0; f < frames; ++f) {
        const std::int64_t pixel = run.first + p;
        const auto id = static_cast<std::size_t>(classes[(run.video * frames + f) * strides[0] + pixel * strides[1]]);
        const auto row = static_cast<std::size_t>(inputs.first_row + pixel / inputs.width);
        const auto col = static_cast<std::size_t>(pixel % inputs.width);
        for (std::size_t c = 0; c < inner; ++c)
          x[static_cast<std::size_t>(p * frames + f) * inner + c] = layers.latent_emb[id * inner + c] +
                                                                    layers.latent_height_emb[row * inner + c] +
                                                                    layers.latent_width_emb[col * inner + c];
      }
    return x;
  }
  // (B*F, C, H, W) -> group norm -> (pixels, F, C) -> proj_in
  Array image(tokens(run) * static_cast<std::size_t>(channels));
  for (std::int64_t p = 0; p < run.count; ++p)
    for (std::int64_t f = 0; f < frames; ++f) {
      const std::int64_t row = run.video * frames + f;
      for (std::int64_t c = 0; c < channels; ++c) {
        const MeanVariance& m = statistics(row, c);
        const double v = read(inputs.hidden_states, offset(inputs.hidden_states, row, c, run.first + p));
        const auto channel = static_cast<std::size_t>(c);
        image[static_cast<std::size_t>((p * frames + f) * channels + c)] =
            (v - m.mean) / std::sqrt(m.variance + kGroupNormEpsilon) * layers.norm.weight[channel] +
            layers.norm.bias[channel];
      }
    }
  Array x = linear(layers.proj_in, image, tokens(run));
  if (normalised != nullptr) *normalised = std::move(image);
  return x;
}

void Passage::block(std::size_t layer, const Run& run, Array& x, BlockTape* kept) const {
  BlockTape own;
  BlockTape& tape = kept != nullptr ? *kept : own;
  if (inputs.context.empty())
    attentions(layer, run, x, tape);
  else
    x = attentions_in_windows(layer, run, x);
  feed_forward(layer, run, x, tape);
}

void Passage::attentions(std::size_t layer, const Run& run, Array& x, BlockTape& tape) const {
  const BlockLayers& block = layers.blocks[layer];
  const BlockConditioning& by = conditioning.at(layer, static_cast<std::size_t>(run.video));
  tape.x0 = x;
  tape.n1 = normalise(block.norm1, x, norm_epsilon(config, 0), by.norm1_scale, by.norm1_shift);
  add_positions(tape.n1, block.pe, run);
  add_gated(x, attention(layer, 1, tape.n1, run, tape.attn1), by.gate_attn1);

  tape.x1 = x;
  if (config.has_attn2()) {
    tape.n2 = normalise(block.norm2, x, norm_epsilon(config, 1), by.norm2_scale, by.norm2_shift);
    add_positions(tape.n2, block.pe, run);
    add_gated(x, attention(layer, 2, tape.n2, run, tape.attn2), {});
  }
}

/// Every window by itself, from the same x; then the average of what they make of a frame.
Array Passage::attentions_in_windows(std::size_t layer, const Run& run, const Array& x) const {
  const ContextWindows& context = inputs.context;
  Array averaged(x.size());
  Run part = run;
  part.frames = context.length;
  for (std::size_t w = 0; w < context.windows.size(); ++w) {
    const ContextWindow& window = context.windows[w];
    part.window = static_cast<std::int64_t>(w);
    const auto row_of = [&](std::int64_t pixel, std::int64_t frame) {
      return static_cast<std::size_t>(pixel * run.frames + window.first + frame) * inner;
    };
    Array inside;
    for (std::int64_t p = 0; p < run.count; ++p)
      inside.insert(inside.end(), x.begin() + static_cast<std::ptrdiff_t>(row_of(p, 0)),
                    x.begin() + static_cast<std::ptrdiff_t>(row_of(p, context.length)));
    BlockTape tape;
    attentions(layer, part, inside, tape);
    for (std::int64_t p = 0; p < run.count; ++p)
      for (std::int64_t f = window.counted; f < context.length; ++f)
        for (std::size_t c = 0; c < inner; ++c)
          averaged[row_of(p, f) + c] +=
              context.share(w, f) * inside[static_cast<std::size_t>(p * context.length + f) * inner + c];
  }
  return averaged;
}

void Passage::feed_forward(std::size_t layer, const Run& run, Array& x, BlockTape& tape) const {
  const BlockLayers& block = layers.blocks[layer];
  const BlockConditioning& by = conditioning.at(layer, static_cast<std::size_t>(run.video));
  advance(inputs.progress, 0);
  tape.x2 = x;
  tape.n3 = normalise(block.norm3, x, norm_epsilon(config, 2), by.norm3_scale, by.norm3_shift);
  tape.projected = linear(block.ff_in, tape.n3, tokens(run));
  advance(inputs.progress, 0);
  tape.hidden = activate(config.activation_fn, tape.projected, tokens(run), block.ff_out.cols);
  drop(dropout(layer, DropoutSite::feed_forward), run, block.ff_out.cols, tape.hidden);
  tape.y = linear(block.ff_out, tape.hidden, tokens(run));
  add_gated(x, tape.y, by.gate_ff);
}

Array Passage::normalise(const NormLayer& norm, const Array& x, double epsilon, const Array& scale,
                         const Array& shift) const {
  Array n = layer_norm(x, x.size() / inner, inner, norm.weight, norm.bias, epsilon);
  scale_and_shift(n, scale, shift);
  return n;
}

void Passage::add_positions(Array& n, const Array& pe, const Run& run) const {
  if (pe.empty()) return;
  const std::size_t period = static_cast<std::size_t>(run.frames) * inner;
  for (std::size_t i = 0; i < n.size(); ++i) n[i] += pe[i % period];
}

Array Passage::attention(std::size_t layer, int which, const Array& n, const Run& run, AttentionTape& tape) const {
  const AttentionLayer& weights = which == 1 ? layers.blocks[layer].attn1 : layers.blocks[layer].attn2;
  const auto frames = static_cast<std::size_t>(run.frames), pixels = static_cast<std::size_t>(run.count);
  const bool conditioned = (which == 2 || config.only_cross_attention) && inputs.encoder_hidden_states;
  const bool shared = conditioned && inputs.encoder_per_video;
  const std::size_t keys = conditioned ? static_cast<std::size_t>(inputs.encoder_hidden_states.size(1)) : frames;
  if (conditioned) tape.context = context_tokens(run);
  const Array& context = conditioned ? tape.context : n;
  const std::size_t context_count = shared ? keys : pixels * keys;
  tape.q = linear(weights.to_q, n, pixels * frames);
  tape.k = linear(weights.to_k, context, context_count);
  tape.v = linear(weights.to_v, context, context_count);
  tape.attended.assign(pixels * frames * inner, 0.0);

  const std::size_t index = 2 * layer + static_cast<std::size_t>(which - 1);
  if (AttentionProcessor* processor = inputs.processors.empty() ? nullptr : inputs.processors[index]) {
    process(*processor, layer, which, run, keys, shared, tape);
  } else {
    for (std::size_t p = 0; p < pixels; ++p)
      for (std::size_t h = 0; h < heads; ++h) {
        advance(inputs.progress, 0);  // a row of pixels takes seconds
        const std::size_t kv = (shared ? 0 : p * keys * inner) + h * head_dim, qo = p * frames * inner + h * head_dim;
        const ScoreBias bias(which == 1 ? inputs.attention_bias : inputs.encoder_attention_bias, run.video,
                             static_cast<std::int64_t>(h));
        attend(tape.q.data() + qo, inner, frames, tape.k.data() + kv, tape.v.data() + kv, inner, keys, head_dim,
               attention_scale(), tape.attended.data() + qo, inner, bias);
      }
  }
  if (which == 2) add_image_prompts(layer, run, tape);
  tape.y = linear(weights.to_out, tape.attended, pixels * frames);
  drop(dropout(layer, which == 1 ? DropoutSite::attn1 : DropoutSite::attn2), run, inner, tape.y);
  return tape.y;
}

void Passage::process(AttentionProcessor& processor, std::size_t layer, int which, const Run& run, std::size_t keys,
                      bool shared, AttentionTape& tape) const {
  const auto size = [](std::size_t s) { return static_cast<std::int64_t>(s); };
  const auto frames = static_cast<std::size_t>(run.frames);
  // (sequences, heads, tokens, head_dim) over memory that is (sequences, tokens, heads, head_dim).
  const auto shape = [&](std::size_t count) -> Shape { return {run.count, size(heads), size(count), size(head_dim)}; };
  const auto strides = [&](std::size_t count, bool same) -> Dims {
    return {same ? 0 : size(count * inner), size(head_dim), size(inner), 1};
  };
  const std::string name = attention_name(static_cast<std::size_t>(layer), static_cast<std::size_t>(which));
  AttentionCall call;
  call.name = name;
  call.layer = size(layer);
  call.attention = which;
  call.video = run.video;
  call.num_videos = inputs.num_videos;
  call.first_pixel = run.first;
  call.num_pixels = inputs.height * inputs.width;
  call.window = run.window;
  call.num_windows = std::max<std::int64_t>(1, size(inputs.context.windows.size()));
  call.scale = attention_scale();
  call.query = {tape.q.data(), DType::f64, shape(frames), strides(frames, false)};
  call.key = {tape.k.data(), DType::f64, shape(keys), strides(keys, shared)};
  call.value = {tape.v.data(), DType::f64, shape(keys), strides(keys, shared)};
  call.output = {tape.attended.data(), DType::f64, shape(frames), strides(frames, false)};
  call.cross_attention_kwargs = inputs.cross_attention_kwargs;
  call.forward = inputs.forward;
  processor(call);
}

/// encoder_hidden_states of the run: (S, D) of the video, or (pixels, S, D).
Array Passage::context_tokens(const Run& run) const {
  const TensorView& e = inputs.encoder_hidden_states;
  if (inputs.encoder_per_video) return tokens_of(e, run.video * e.size(0) / inputs.num_videos, 1);
  return tokens_of(e, run.video * inputs.height * inputs.width + run.first, run.count);
}

/// attended += scale * attention(q, to_k_ip(images), to_v_ip(images))
void Passage::add_image_prompts(std::size_t layer, const Run& run, AttentionTape& tape) const {
  const AttentionLayer& weights = layers.blocks[layer].attn2;
  Array attended(tape.attended.size());
  for (std::size_t i = 0; i < inputs.image_prompts.size(); ++i) {
    const ImagePrompt& prompt = inputs.image_prompts[i];
    const TensorView& e = prompt.hidden_states;
    const auto keys = static_cast<std::size_t>(e.size(1));
    const Array images = tokens_of(e, run.video * e.size(0) / inputs.num_videos, 1);
    const Array k = linear(weights.to_k_ip[i], images, keys), v = linear(weights.to_v_ip[i], images, keys);
    for (std::size_t h = 0; h < heads; ++h)
      attend(tape.q.data() + h * head_dim, inner, tokens(run), k.data() + h * head_dim, v.data() + h * head_dim, inner,
             keys, head_dim, attention_scale(), attended.data() + h * head_dim, inner);
    for (std::size_t j = 0; j < attended.size(); ++j) tape.attended[j] += prompt.scale[layer] * attended[j];
  }
}

void Passage::leave(const Run& run, const Array& x, const MutableTensorView& output) const {
  const std::int64_t frames = inputs.num_frames;
  const bool discrete = config.is_discrete();
  const Array y = discrete ? classify(run, x) : linear(layers.proj_out, x, tokens(run));
  const auto width = static_cast<std::int64_t>(y.size() / tokens(run));
  for (std::int64_t p = 0; p < run.count; ++p)
    for (std::int64_t f = 0; f < frames; ++f)
      for (std::int64_t c = 0; c < width; ++c) {
        const std::int64_t row = run.video * frames + f, pixel = run.first + p;
        const double value = y[static_cast<std::size_t>((p * frames + f) * width + c)];
        if (discrete)  // (B*F, V-1, H*W)
          write(output, row * output.strides()[0] + c * output.strides()[1] + pixel * output.strides()[2], value);
        else
          write(output, offset(output, row, c, pixel),
                value + read(inputs.hidden_states, offset(inputs.hidden_states, row, c, pixel)));
      }
}

Array Passage::classify(const Run& run, const Array& x, Array* normalised) const {
  Array n = layer_norm(x, tokens(run), inner, layers.norm_out.weight, layers.norm_out.bias, kNormOutEpsilon);
  const Array y = log_softmax(linear(layers.out, n, tokens(run)), tokens(run), layers.out.rows);
  if (normalised != nullptr) *normalised = std::move(n);
  return y;
}

std::optional<Dropout> Passage::dropout(std::size_t layer, DropoutSite site) const {
  if (!inputs.training_seed || config.dropout == 0.0) return std::nullopt;
  return Dropout(config.dropout, *inputs.training_seed, static_cast<std::int64_t>(layer), site);
}

void Passage::drop(const std::optional<Dropout>& dropout, const Run& run, std::size_t width, Array& x) const {
  if (!dropout) return;
  const std::int64_t first = inputs.place(run.video, run.first) * inputs.num_frames;
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] *= (*dropout)(first + static_cast<std::int64_t>(i / width), static_cast<std::int64_t>(i % width));
}

}  // namespace kineograph::engine::reference

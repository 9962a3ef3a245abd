#include "random_case.h"

#include "agreement.h"

namespace kineograph::testing {

using namespace engine;

/// Frames at most, where clips are long: a head's keys are more than a cache holds with any instruction set.
constexpr std::int64_t kLongestClip = 500;

/// The next multiple of 8.
static std::int64_t eights(std::int64_t width) { return (width + 7) / 8 * 8; }

RandomCase::RandomCase(std::uint64_t seed, Options options) : Draws(seed), options_(options) { draw_all(); }
RandomCase::RandomCase(std::span<const std::uint8_t> bytes) : Draws(bytes) { draw_all(); }

void RandomCase::draw_all() {
  draw_config();
  draw_weights();
  draw_inputs();
}

void RandomCase::draw_context() {
  if (!chance(0.4)) return;
  ContextOptions options;
  options.length = pick(1, inputs.num_frames);
  options.stride = pick(1, options.length);
  options.weighting = static_cast<ContextWeighting>(pick(0, 2));
  inputs.context = context_windows(options, inputs.num_frames, weight_dtype_);
}

Attention RandomCase::attention(std::int64_t context) {
  const std::int64_t inner = config.inner_dim();
  const bool bias = config.attention_bias;
  return {linear(inner, inner, bias, 2.0), linear(inner, context, bias, 2.0), linear(inner, context, bias),
          linear(inner, inner, true)};
}

AdaNorm RandomCase::ada_norm(std::int64_t chunks) {
  const std::int64_t inner = config.inner_dim();
  AdaNorm ada;
  ada.linear = linear(chunks * inner, inner, true);
  if (config.norm_type == NormType::ada_norm) {
    ada.emb = draw({*config.num_embeds_ada_norm, inner}, 1.0);
  } else {
    ada.timestep_linear_1 = linear(inner, 256, true);
    ada.timestep_linear_2 = linear(inner, inner, true);
    ada.class_table = draw({*config.num_embeds_ada_norm + 1, inner}, 1.0);
  }
  return ada;
}

void RandomCase::draw_config() {
  config.num_attention_heads = pick(1, 5);
  config.attention_head_dim = pick(1, 3) == 1 ? pick(1, 20) : 4 * pick(1, 6);
  if (options_ == Options::cuda) config.attention_head_dim = eights(config.attention_head_dim);
  if (options_ == Options::long_clips) {
    config.num_attention_heads = pick(1, 2);
    config.attention_head_dim = pick(9, 48);
  }
  const std::int64_t depth = pick(1, 8);
  config.num_layers = depth == 1 ? 0 : depth <= 3 ? 2 : 1;
  config.attention_bias = chance(0.3);
  config.activation_fn = static_cast<Activation>(pick(0, 5));
  config.norm_elementwise_affine = chance(0.8);
  config.double_self_attention = chance(0.5);
  if (chance(0.5)) config.cross_attention_dim = chance(0.5) ? pick(1, 40) : config.inner_dim();
  if (options_ == Options::cuda && config.cross_attention_dim)
    config.cross_attention_dim = eights(*config.cross_attention_dim);
  if (chance(0.5)) {
    config.positional_embeddings = PositionalEmbeddings::sinusoidal;
    config.num_positional_embeddings = options_ == Options::long_clips ? kLongestClip : pick(35, 40);
  }
  if (options_ != Options::cuda && chance(0.3)) {
    config.norm_type = chance(0.5) ? NormType::ada_norm : NormType::ada_norm_zero;
    config.num_embeds_ada_norm = pick(1, 9);
  }
  if (chance(0.3)) config.group_norm_scope = GroupNormScope::frame;
  if (options_ != Options::cuda && chance(0.15)) {
    config.num_vector_embeds = pick(2, 30);
    config.sample_size = pick(1, 6);
  } else {
    config.norm_num_groups = pick(1, 4);
    config.in_channels = config.norm_num_groups * (options_ == Options::cuda ? 8 * pick(1, 5) : pick(1, 20));
  }
  constexpr DType kDTypes[] = {DType::f32, DType::f32, DType::f16, DType::bf16};
  weight_dtype_ = kDTypes[pick(0, 3)];
  input_dtype_ = kDTypes[pick(0, 3)];
}

void RandomCase::draw_weights() {
  const std::int64_t inner = config.inner_dim();
  if (config.is_discrete()) {
    weights.latent_emb = draw({*config.num_vector_embeds, inner}, 1.0);
    weights.latent_height_emb = draw({*config.sample_size, inner}, 1.0);
    weights.latent_width_emb = draw({*config.sample_size, inner}, 1.0);
    weights.norm_out = norm(inner, true);
    weights.out = linear(*config.num_vector_embeds - 1, inner, true);
  } else {
    weights.norm = norm(*config.in_channels, true);
    weights.proj_in = linear(inner, *config.in_channels, true);
    weights.proj_out = linear(*config.in_channels, inner, true);
  }
  const bool gated = is_gated(config.activation_fn);
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    Block block;
    const bool affine = config.norm_elementwise_affine;
    if (config.norm_type == NormType::layer_norm)
      block.norm1 = norm(inner, affine);
    else
      block.ada_norm1 = ada_norm(config.norm_type == NormType::ada_norm ? 2 : 6);
    if (config.norm_type == NormType::ada_norm)
      block.ada_norm2 = ada_norm(2);
    else
      block.norm2 = norm(inner, affine);
    block.norm3 = norm(inner, affine);
    block.attn1 = attention(inner);
    if (config.has_attn2()) block.attn2 = attention(config.attn2_context_dim());
    block.ff_in = linear((gated ? 8 : 4) * inner, inner, true);
    block.ff_out = linear(inner, 4 * inner, true);
    if (config.positional_embeddings == PositionalEmbeddings::sinusoidal)
      block.pe = draw({1, *config.num_positional_embeddings, inner}, 1.0);
    weights.blocks.push_back(block);
  }
}

void RandomCase::draw_inputs() {
  inputs.num_videos = pick(1, 3);
  inputs.num_frames = pick(1, 4) == 1 ? pick(1, 33) : pick(1, 9);
  if (options_ == Options::long_clips) {
    inputs.num_videos = pick(1, 2);
    inputs.num_frames = pick(60, kLongestClip);
  }
  const std::int64_t rows = inputs.num_videos * inputs.num_frames;
  if (config.is_discrete()) {
    inputs.height = inputs.width = *config.sample_size;
    Tensor classes(DType::i64, {rows, inputs.height * inputs.width});
    for (std::int64_t i = 0; i < classes.numel(); ++i)
      classes.data_as<std::int64_t>()[i] = pick(0, *config.num_vector_embeds - 1);
    tensors_.push_back(std::move(classes));
    inputs.hidden_states = tensors_.back();
  } else {
    inputs.channels = *config.in_channels;
    inputs.height = options_ == Options::long_clips ? 1 : pick(1, 9);
    inputs.width = pick(1, 3) == 1 ? pick(1, 30) : pick(1, 9);
    channels_last_ = chance(0.2);
    const DType keep = weight_dtype_;
    weight_dtype_ = input_dtype_;
    const double mean = chance(0.2) ? 30.0 : 0.2;
    if (channels_last_) {
      const TensorView flat = draw({rows, inputs.height, inputs.width, inputs.channels}, 2.0, mean);
      inputs.hidden_states = {flat.data(),
                              flat.dtype(),
                              {rows, inputs.channels, inputs.height, inputs.width},
                              {flat.strides()[0], 1, flat.strides()[1], flat.strides()[2]}};
    } else {
      inputs.hidden_states = draw({rows, inputs.channels, inputs.height, inputs.width}, 2.0, mean);
    }
    weight_dtype_ = keep;
  }
  const bool self_possible = config.attn2_context_dim() == config.inner_dim();
  if (config.has_attn2() && (!self_possible || chance(0.4))) {
    inputs.encoder_per_video = chance(0.5);
    const std::int64_t count =
        inputs.encoder_per_video ? inputs.num_videos : inputs.num_videos * inputs.height * inputs.width;
    inputs.encoder_hidden_states = draw({count, pick(1, 12), config.attn2_context_dim()}, 1.5);
  }
  if (config.norm_type != NormType::layer_norm)
    for (std::int64_t video = 0; video < inputs.num_videos; ++video) {
      inputs.timestep.push_back(static_cast<double>(pick(0, *config.num_embeds_ada_norm - 1)));
      if (config.norm_type == NormType::ada_norm_zero)
        inputs.class_labels.push_back(pick(0, *config.num_embeds_ada_norm));
    }
}

Tensor RandomCase::make_output() const {
  if (config.is_discrete())
    return Tensor(DType::f32,
                  {inputs.hidden_states.size(0), *config.num_vector_embeds - 1, inputs.hidden_states.size(1)});
  return Tensor(inputs.hidden_states.dtype(), inputs.hidden_states.shape());
}

Tensor RandomCase::run(const Engine& engine, DType compute_dtype, const std::string& isa, int threads,
                       bool in_place) const {
  const auto plan = engine.prepare(config, weights, {compute_dtype, isa});
  Inputs call = inputs;
  call.num_threads = threads;
  Tensor output = make_output();
  if (in_place && !config.is_discrete()) {
    output = convert(inputs.hidden_states, inputs.hidden_states.dtype());
    call.hidden_states = output.view();
  }
  plan->forward(call, output.mutable_view());
  return convert(output, DType::f64);
}

std::string RandomCase::describe() const {
  std::string text = std::to_string(config.num_attention_heads) + "x" + std::to_string(config.attention_head_dim);
  text += " C " + std::to_string(inputs.channels) + " groups " + std::to_string(config.norm_num_groups);
  text += " B " + std::to_string(inputs.num_videos) + " F " + std::to_string(inputs.num_frames);
  text += " HxW " + std::to_string(inputs.height) + "x" + std::to_string(inputs.width);
  text += " layers " + std::to_string(config.num_layers) + " " + std::string(name_of(inputs.hidden_states.dtype()));
  text += " weights " + std::string(name_of(weight_dtype_));
  text += " activation " + std::to_string(static_cast<int>(config.activation_fn));
  text += " norm_type " + std::to_string(static_cast<int>(config.norm_type));
  text += config.double_self_attention ? " double" : "";
  text += config.cross_attention_dim ? " cross " + std::to_string(*config.cross_attention_dim) : "";
  text += config.positional_embeddings == PositionalEmbeddings::none ? "" : " pe";
  text += config.is_discrete() ? " discrete " + std::to_string(*config.num_vector_embeds) : "";
  text += config.group_norm_scope == GroupNormScope::frame ? " frame" : "";
  if (inputs.encoder_hidden_states)
    text += std::string(inputs.encoder_per_video ? " per-video " : " per-pixel ") +
            std::to_string(inputs.encoder_hidden_states.size(1));
  if (!inputs.context.empty())
    text +=
        " windows of " + std::to_string(inputs.context.length) + ": " + std::to_string(inputs.context.windows.size());
  return text + (channels_last_ ? " channels-last" : "");
}

std::string disagreement(const RandomCase& c, DType compute_dtype, const Tensor& want, const Tensor& got) {
  const TensorView input = c.config.is_discrete() ? TensorView() : c.inputs.hidden_states;
  const double stages = 4.0 + 5.0 * static_cast<double>(c.config.num_layers);
  std::string text = disagreement({input, c.make_output().dtype(), compute_dtype, stages}, want, got);
  return text.empty() ? text : text + "\n" + c.describe();
}

}  // namespace kineograph::testing

#include "random_rows_case.h"

#include <limits>

namespace kineograph::testing {

using namespace engine;

RandomRowsCase::RandomRowsCase(std::uint64_t seed) : Draws(seed) {
  constexpr DType kDTypes[] = {DType::f32, DType::f32, DType::f16, DType::bf16};
  weight_dtype_ = kDTypes[pick(0, 3)];
  input_dtype_ = kDTypes[pick(0, 3)];
  if (seed % 2 == 0)
    draw_image_model();
  else
    draw_video_model();
}

Attention RandomRowsCase::attention(const TransformerConfig& c, std::int64_t context) {
  const std::int64_t inner = c.inner_dim();
  const bool bias = c.attention_bias;
  Attention made;
  made.to_q = linear(inner, inner, bias, 2.0);
  made.to_k = linear(inner, context, bias, 2.0);
  made.to_v = linear(inner, context, bias);
  made.to_out = linear(inner, inner, true);
  return made;
}

AdaNorm RandomRowsCase::ada_norm(const TransformerConfig& c, std::int64_t chunks) {
  const std::int64_t inner = c.inner_dim();
  AdaNorm ada;
  ada.linear = linear(chunks * inner, inner, true);
  if (c.norm_type == NormType::ada_norm) {
    ada.emb = draw({*c.num_embeds_ada_norm, inner}, 1.0);
  } else {
    ada.timestep_linear_1 = linear(inner, 256, true);
    ada.timestep_linear_2 = linear(inner, inner, true);
    ada.class_table = draw({*c.num_embeds_ada_norm + 1, inner}, 1.0);
  }
  return ada;
}

void RandomRowsCase::draw_block(const TransformerConfig& c, Block& block) {
  const std::int64_t inner = c.inner_dim();
  const bool affine = c.norm_elementwise_affine;
  if (c.norm_type == NormType::layer_norm)
    block.norm1 = norm(inner, affine);
  else
    block.ada_norm1 = ada_norm(c, c.norm_type == NormType::ada_norm ? 2 : 6);
  if (c.norm_type == NormType::ada_norm)
    block.ada_norm2 = ada_norm(c, 2);
  else
    block.norm2 = norm(inner, affine);
  block.norm3 = norm(inner, affine);
  block.attn1 = attention(c, c.attn1_context_dim());
  if (c.has_attn2()) block.attn2 = attention(c, c.attn2_context_dim());
  block.ff_in = linear((is_gated(c.activation_fn) ? 8 : 4) * inner, inner, true);
  block.ff_out = linear(inner, 4 * inner, true);
}

void RandomRowsCase::draw_outer_weights(const TransformerConfig& c) {
  weights.norm = norm(*c.in_channels, true);
  weights.proj_in = linear(c.inner_dim(), *c.in_channels, true);
  weights.proj_out = linear(*c.in_channels, c.inner_dim(), true);
}

void RandomRowsCase::draw_image_model() {
  Transformer2DConfig c;
  c.num_attention_heads = pick(1, 5);
  c.attention_head_dim = pick(1, 3) == 1 ? pick(1, 20) : 4 * pick(1, 6);
  const std::int64_t depth = pick(1, 8);
  c.num_layers = depth == 1 ? 0 : depth <= 3 ? 2 : 1;
  c.attention_bias = chance(0.3);
  c.activation_fn = static_cast<Activation>(pick(0, 5));
  c.norm_elementwise_affine = chance(0.8);
  c.norm_eps = chance(0.3) ? 1e-3 : 1e-5;
  c.double_self_attention = chance(0.2);
  if (chance(0.7)) c.cross_attention_dim = chance(0.7) ? pick(1, 40) : c.inner_dim();
  c.only_cross_attention = c.cross_attention_dim && !c.double_self_attention && chance(0.2);
  if (chance(0.3)) {
    c.norm_type = chance(0.5) ? NormType::ada_norm : NormType::ada_norm_zero;
    c.num_embeds_ada_norm = pick(1, 9);
  }
  c.norm_num_groups = pick(1, 4);
  c.in_channels = c.norm_num_groups * pick(1, 20);
  draw_outer_weights(c);
  weights.blocks.resize(static_cast<std::size_t>(c.num_layers));
  for (Block& block : weights.blocks) draw_block(c, block);

  draw_shape(6);
  std::swap(inputs.num_videos, inputs.num_frames);  // every row is a video of one frame
  draw_context(c);
  const std::int64_t pixels = inputs.height * inputs.width;
  const std::int64_t tokens = inputs.encoder_hidden_states ? inputs.encoder_hidden_states.size(1) : pixels;
  if (chance(0.3)) inputs.attention_bias = draw_bias(c.only_cross_attention ? tokens : pixels);
  if (c.has_attn2() && chance(0.3)) inputs.encoder_attention_bias = draw_bias(tokens);
  if (c.has_attn2() && !c.double_self_attention && inputs.encoder_hidden_states && chance(0.3)) {
    const std::int64_t width = c.attn2_context_dim(), inner = c.inner_dim();
    for (std::int64_t i = pick(1, 2); i > 0; --i) {
      for (Block& block : weights.blocks) {
        block.attn2.to_k_ip.push_back(linear(inner, width, false, 2.0));
        block.attn2.to_v_ip.push_back(linear(inner, width, false));
      }
      ImagePrompt prompt;
      prompt.hidden_states = draw({chance(0.5) ? 1 : inputs.num_videos, pick(1, 20), width}, 1.5);
      for (std::int64_t layer = 0; layer < c.num_layers; ++layer)
        prompt.scale.push_back(static_cast<double>(pick(0, 4)) / 4.0);
      inputs.image_prompts.push_back(std::move(prompt));
    }
  }
  if (c.norm_type != NormType::layer_norm)
    for (std::int64_t row = 0; row < inputs.num_videos; ++row) {
      inputs.timestep.push_back(static_cast<double>(pick(0, *c.num_embeds_ada_norm - 1)));
      if (c.norm_type == NormType::ada_norm_zero) inputs.class_labels.push_back(pick(0, *c.num_embeds_ada_norm));
    }
  config = c;
}

void RandomRowsCase::draw_video_model() {
  TransformerSpatioTemporalConfig c;
  c.num_attention_heads = pick(1, 4);
  c.attention_head_dim = 2 * pick(1, 10);
  c.norm_num_groups = chance(0.5) ? c.num_attention_heads : 1;
  c.in_channels = c.inner_dim();
  const std::int64_t depth = pick(1, 8);
  c.num_layers = depth == 1 ? 0 : depth <= 3 ? 2 : 1;
  if (chance(0.8)) c.cross_attention_dim = pick(1, 40);
  draw_outer_weights(c);
  const std::int64_t inner = c.inner_dim();
  weights.blocks.resize(static_cast<std::size_t>(c.num_layers));
  for (Block& block : weights.blocks) draw_block(c, block);
  weights.temporal_blocks.resize(static_cast<std::size_t>(c.num_layers));
  for (TemporalBlock& block : weights.temporal_blocks) {
    draw_block(c, block);
    block.norm_in = norm(inner, true);
    block.first_ff_in = linear(8 * inner, inner, true);
    block.first_ff_out = linear(inner, 4 * inner, true);
  }
  weights.time_pos_embed_1 = linear(4 * inner, inner, true);
  weights.time_pos_embed_2 = linear(inner, 4 * inner, true);
  weights.mix_factor = draw({1}, 1.0);
  draw_shape(3);
  draw_context(c);
  for (std::int64_t row = 0; row < inputs.num_videos * inputs.num_frames; ++row)
    inputs.image_only.push_back(chance(0.2));
  config = c;
}

void RandomRowsCase::draw_shape(std::int64_t max_videos) {
  inputs.num_videos = 1;
  inputs.num_frames = pick(1, max_videos);
  if (max_videos == 3) {
    inputs.num_videos = pick(1, 3);
    inputs.num_frames = pick(1, 4) == 1 ? pick(1, 20) : pick(1, 6);
  } else if (chance(0.2)) {
    inputs.num_frames = pick(1, 50);
  }
  const std::int64_t rows = inputs.num_videos * inputs.num_frames;
  inputs.channels = weights.proj_in.weight.size(1);
  // Maps of one pixel, of a few vectors, and of more keys than a piece or a tile has.
  const std::int64_t kind = pick(1, 8);
  inputs.height = kind == 1 ? 1 : kind <= 6 ? pick(1, 9) : rows > 6 ? pick(1, 9) : pick(9, 20);
  inputs.width = kind == 1 ? 1 : kind <= 6 ? pick(1, 9) : rows > 6 ? pick(1, 9) : pick(9, 30);
  const DType keep = std::exchange(weight_dtype_, input_dtype_);
  inputs.hidden_states = draw({rows, inputs.channels, inputs.height, inputs.width}, 2.0, chance(0.2) ? 30.0 : 0.2);
  weight_dtype_ = keep;
}

void RandomRowsCase::draw_context(const TransformerConfig& c) {
  if (!c.has_attn2()) return;
  const bool self_possible = c.attn2_context_dim() == c.inner_dim() && c.attn1_context_dim() == c.inner_dim();
  if (self_possible && chance(0.4)) return;
  const std::int64_t rows = inputs.num_videos * inputs.num_frames, kind = pick(1, 3);
  const std::int64_t count = kind == 1 ? 1 : kind == 2 ? inputs.num_videos : rows;
  inputs.encoder_hidden_states =
      draw({count, pick(1, 5) == 1 ? pick(1, 300) : pick(1, 12), c.attn2_context_dim()}, 1.5);
  inputs.encoder_per_video = false;
}

/// Of some extents, all alike along the others; some scores are minus infinity, for whole queries too.
TensorView RandomRowsCase::draw_bias(std::int64_t keys) {
  const std::int64_t pixels = inputs.height * inputs.width;
  const bool by_row = chance(0.6), by_query = chance(0.4);
  const DType keep = std::exchange(weight_dtype_, DType::f32);
  TensorView drawn = draw({by_row ? inputs.num_videos : 1, 1, by_query ? pixels : 1, keys}, 2.0);
  weight_dtype_ = keep;
  auto* const values = tensors_.back().data_as<float>();
  const float masked = chance(0.5) ? -10000.0f : -std::numeric_limits<float>::infinity();
  if (chance(0.6))
    for (std::int64_t i = 0; i < drawn.numel(); ++i)
      if (i / keys % 7 == 3 || chance(0.3)) values[i] = masked;
  const auto strides = drawn.strides();
  return {drawn.data(),
          DType::f32,
          {inputs.num_videos, 5, pixels, keys},
          {by_row ? strides[0] : 0, 0, by_query ? strides[2] : 0, strides[3]}};
}

Tensor RandomRowsCase::run(const Engine& engine, DType compute_dtype, const std::string& isa, int threads,
                           bool in_place) const {
  const auto plan = engine.prepare(config, weights, {compute_dtype, isa});
  Inputs call = inputs;
  call.num_threads = threads;
  Tensor output = in_place ? convert(inputs.hidden_states, inputs.hidden_states.dtype())
                           : Tensor(inputs.hidden_states.dtype(), inputs.hidden_states.shape());
  if (in_place) call.hidden_states = output.view();
  plan->forward(call, output.mutable_view());
  return convert(output, DType::f64);
}

std::string RandomRowsCase::describe() const {
  const TransformerConfig& c = common(config);
  std::string text = std::string(class_name(config)) + " " + std::to_string(c.num_attention_heads) + "x" +
                     std::to_string(c.attention_head_dim);
  text += " C " + std::to_string(inputs.channels) + " groups " + std::to_string(c.norm_num_groups);
  text += " B " + std::to_string(inputs.num_videos) + " F " + std::to_string(inputs.num_frames);
  text += " HxW " + std::to_string(inputs.height) + "x" + std::to_string(inputs.width);
  text += " layers " + std::to_string(c.num_layers) + " " + std::string(name_of(inputs.hidden_states.dtype()));
  text += " weights " + std::string(name_of(weight_dtype_));
  text += " activation " + std::to_string(static_cast<int>(c.activation_fn));
  text += " norm_type " + std::to_string(static_cast<int>(c.norm_type));
  text += c.double_self_attention ? " double" : "";
  text += c.only_cross_attention ? " only_cross" : "";
  text += c.cross_attention_dim ? " cross " + std::to_string(*c.cross_attention_dim) : "";
  if (inputs.encoder_hidden_states)
    text += " tokens " + std::to_string(inputs.encoder_hidden_states.size(0)) + "x" +
            std::to_string(inputs.encoder_hidden_states.size(1));
  const auto bias = [](const TensorView& view) {
    return std::string(view.strides()[2] == 0 ? " by key" : " by query") + (view.strides()[0] == 0 ? "" : " and row");
  };
  if (inputs.attention_bias) text += " bias" + bias(inputs.attention_bias);
  if (inputs.encoder_attention_bias) text += " encoder bias" + bias(inputs.encoder_attention_bias);
  return text + " prompts " + std::to_string(inputs.image_prompts.size());
}

}  // namespace kineograph::testing

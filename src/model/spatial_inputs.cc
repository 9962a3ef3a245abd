// The arguments of Transformer2DModel and TransformerSpatioTemporalModel.
#include <algorithm>

#include "model/arguments.h"
#include "model/inputs.h"
#include "model/views.h"

namespace kineograph::model {
namespace {

// Added to the scores of keys that a mask discards, as in diffusers.
constexpr double kDiscard = -10000.0;

bool is_bias_dtype(DType dtype) { return is_image_dtype(dtype) || dtype == DType::f64; }

/// (N, K) of kept keys -> (N, heads, Q, K), the bias in `inputs.made`.
TensorView bias_of_mask(const TensorView& mask, const Shape& shape, engine::Inputs& inputs) {
  Tensor bias(DType::f32, mask.shape());
  for (std::int64_t row = 0; row < mask.size(0); ++row)
    for (std::int64_t key = 0; key < mask.size(1); ++key)
      bias.data_as<float>()[row * mask.size(1) + key] =
          static_cast<float>((1.0 - number(mask, row * mask.strides()[0] + key * mask.strides()[1])) * kDiscard);
  inputs.made.push_back(std::move(bias));
  return TensorView(inputs.made.back().data(), DType::f32, shape, Dims{mask.size(1), 0, 0, 1});
}

/// (N, 1, K), (N, Q, K), (N * heads, 1, K) or (N * heads, Q, K) -> (N, heads, Q, K).
TensorView spread_bias(const TensorView& bias, const Shape& shape) {
  const Dims& strides = bias.strides();
  const bool by_head = bias.size(0) != shape[0];
  return TensorView(bias.data(), bias.dtype(), shape,
                    Dims{by_head ? shape[1] * strides[0] : strides[0], by_head ? strides[0] : 0,
                         bias.size(1) == 1 ? 0 : strides[1], strides[2]});
}

/// A mask or bias over `keys` keys as an engine takes it.
TensorView read_mask(const char* where, const TensorView& mask, std::int64_t heads, std::int64_t keys,
                     engine::Inputs& inputs) {
  if (!mask) return {};
  check_view(where, mask);
  const std::int64_t rows = inputs.num_videos, queries = inputs.height * inputs.width;
  const Shape shape{rows, heads, queries, keys};
  if (mask.rank() == 2 && mask.size(0) == rows && mask.size(1) == keys) return bias_of_mask(mask, shape, inputs);
  const bool fits = mask.rank() == 3 && (mask.size(0) == rows || mask.size(0) == rows * heads) &&
                    (mask.size(1) == 1 || mask.size(1) == queries) && mask.size(2) == keys;
  if (!fits || !is_bias_dtype(mask.dtype())) {
    const std::string n = std::to_string(rows), k = std::to_string(keys);
    refuse(where,
           "a mask (" + n + ", " + k + "), or a floating bias (" + n + ", 1 or " + std::to_string(queries) + ", " + k +
               ") or (" + std::to_string(rows * heads) + ", 1 or " + std::to_string(queries) + ", " + k + ")",
           dtype_and_shape(mask));
  }
  return spread_bias(mask, shape);
}

/// Whether a (E, S, D) view's rows can be those of `rows` rows of hidden_states.
bool fits_rows(const TensorView& view, std::int64_t rows, std::int64_t width) {
  return is_image_dtype(view.dtype()) && view.rank() == 3 && view.size(0) >= 1 && rows % view.size(0) == 0 &&
         view.size(1) >= 1 && view.size(2) == width;
}

std::string expected_rows(std::int64_t rows, std::int64_t width, const char* tokens) {
  return "f32, f16 or bf16 (" + std::to_string(rows) + ", " + tokens + ", " + std::to_string(width) +
         "), or fewer rows that divide " + std::to_string(rows);
}

/// encoder_hidden_states of a model whose rows are N; every attention that reads it.
void read_encoder(const TransformerConfig& config, const TensorView& encoder, std::int64_t rows,
                  const WarningHandler& on_warning, engine::Inputs& inputs) {
  const char* where = "encoder_hidden_states";
  check_view(where, encoder);
  const std::int64_t inner = config.inner_dim();
  std::int64_t width = config.has_attn2() ? config.attn2_context_dim() : config.attn1_context_dim();
  if (config.only_cross_attention) {
    if (config.has_attn2() && encoder && config.attn1_context_dim() != width)
      refuse(where,
             "none: attn1 reads a width of " + std::to_string(config.attn1_context_dim()) + ", attn2 of " +
                 std::to_string(width),
             dtype_and_shape(encoder), "double_self_attention and only_cross_attention do not go together.");
    width = config.attn1_context_dim();
  } else if (!config.has_attn2()) {
    if (encoder) warn(on_warning, "encoder_hidden_states has no effect: the blocks have no second attention");
    return;
  }
  if (!encoder) {
    if (width != inner)
      refuse(where, "a conditioning of width cross_attention_dim " + std::to_string(width), "none",
             "Without one the attention attends to its own tokens, which are " + std::to_string(inner) + " wide.");
    return;
  }
  if (!fits_rows(encoder, rows, width)) refuse(where, expected_rows(rows, width, "S"), dtype_and_shape(encoder));
  inputs.encoder_hidden_states = encoder;
  inputs.encoder_per_video = true;
}

void read_masks(const Transformer2DConfig& config, const Transformer2DForwardOptions& options, engine::Inputs& inputs) {
  const std::int64_t pixels = inputs.height * inputs.width, heads = config.num_attention_heads;
  const std::int64_t tokens = inputs.encoder_hidden_states ? inputs.encoder_hidden_states.size(1) : pixels;
  inputs.made.reserve(2);  // views of its tensors stay valid
  inputs.attention_bias =
      read_mask("attention_mask", options.attention_mask, heads, config.only_cross_attention ? tokens : pixels, inputs);
  if (!config.has_attn2()) {
    if (options.encoder_attention_mask)
      warn(options.on_warning, "encoder_attention_mask has no effect: the blocks have no second attention");
    return;
  }
  inputs.encoder_attention_bias =
      read_mask("encoder_attention_mask", options.encoder_attention_mask, heads, tokens, inputs);
}

void read_image_prompts(const Transformer2DConfig& config, const std::vector<ImagePrompt>& prompts,
                        engine::Inputs& inputs) {
  const char* where = "image_prompts";
  if (prompts.empty()) return;
  const auto adapters = static_cast<std::size_t>(config.num_ip_adapters);
  const auto layers = static_cast<std::size_t>(config.num_layers);
  if (prompts.size() != adapters)
    refuse(where, "one for each of num_ip_adapters " + std::to_string(adapters) + ", or none",
           std::to_string(prompts.size()));
  for (const ImagePrompt& prompt : prompts) {
    check_view(where, prompt.hidden_states);
    if (!prompt.hidden_states || !fits_rows(prompt.hidden_states, inputs.num_videos, config.attn2_context_dim()))
      refuse(where, expected_rows(inputs.num_videos, config.attn2_context_dim(), "T"),
             prompt.hidden_states ? dtype_and_shape(prompt.hidden_states) : "none");
    if (prompt.scale.size() != 1 && prompt.scale.size() != layers)
      refuse(where, "one scale, or one a layer: " + std::to_string(layers), std::to_string(prompt.scale.size()));
    std::vector<double> scale = prompt.scale;
    if (scale.size() == 1) scale.assign(layers, prompt.scale.front());
    inputs.image_prompts.push_back({prompt.hidden_states, std::move(scale)});
  }
}

/// F of a call: num_frames and image_only_indicator's last extent, which agree.
std::int64_t read_num_frames(const TransformerSpatioTemporalForwardOptions& options) {
  const TensorView& images = options.image_only_indicator;
  if (options.num_frames < 0) refuse("num_frames", "1 or more", std::to_string(options.num_frames));
  if (!images) return std::max<std::int64_t>(1, options.num_frames);
  check_view("image_only_indicator", images);
  const bool shaped = (images.rank() == 1 || images.rank() == 2) && images.size(images.rank() - 1) >= 1;
  const std::int64_t frames = shaped ? images.size(images.rank() - 1) : 0;
  if (!shaped || (options.num_frames != 0 && options.num_frames != frames))
    refuse("image_only_indicator",
           options.num_frames == 0 ? "(B, F)" : "(B, F) with F = num_frames " + std::to_string(options.num_frames),
           dtype_and_shape(images));
  return frames;
}

void read_image_only(const TensorView& images, engine::Inputs& inputs) {
  const std::int64_t videos = inputs.num_videos, frames = inputs.num_frames;
  inputs.image_only.assign(static_cast<std::size_t>(videos * frames), false);
  if (!images) return;
  const bool one = images.rank() == 1 || images.size(0) == 1;
  if (!one && images.size(0) != videos)
    refuse("image_only_indicator",
           "(" + std::to_string(videos) + ", " + std::to_string(frames) + "), or one row for all",
           dtype_and_shape(images));
  const std::int64_t along_videos = one ? 0 : images.strides()[0], along_frames = images.strides()[images.rank() - 1];
  for (std::int64_t row = 0; row < videos * frames; ++row)
    inputs.image_only[static_cast<std::size_t>(row)] =
        number(images, row / frames * along_videos + row % frames * along_frames) != 0.0;
}

}  // namespace

engine::Inputs read_inputs(const Transformer2DConfig& config, const TensorView& hidden_states,
                           const Transformer2DForwardOptions& options) {
  engine::Inputs inputs;
  read_image(config, hidden_states, "N", inputs);
  inputs.hidden_states = hidden_states;
  inputs.num_videos = hidden_states.size(0);
  inputs.num_frames = 1;
  read_encoder(config, options.encoder_hidden_states, inputs.num_videos, options.on_warning, inputs);
  read_conditioning(config, options.timestep, options.class_labels, {}, options.on_warning, "row", inputs);
  read_masks(config, options, inputs);
  read_image_prompts(config, options.image_prompts, inputs);
  read_threads(options, inputs);
  return inputs;
}

engine::Inputs read_inputs(const TransformerSpatioTemporalConfig& config, const TensorView& hidden_states,
                           const TransformerSpatioTemporalForwardOptions& options) {
  engine::Inputs inputs;
  read_image(config, hidden_states, "B*F", inputs);
  inputs.hidden_states = hidden_states;
  inputs.num_frames = read_num_frames(options);
  if (hidden_states.size(0) % inputs.num_frames != 0)
    refuse("hidden_states", "rows divisible by num_frames " + std::to_string(inputs.num_frames),
           std::to_string(hidden_states.size(0)) + " rows");
  inputs.num_videos = hidden_states.size(0) / inputs.num_frames;
  read_encoder(config, options.encoder_hidden_states, hidden_states.size(0), options.on_warning, inputs);
  read_image_only(options.image_only_indicator, inputs);
  read_threads(options, inputs);
  return inputs;
}

}  // namespace kineograph::model

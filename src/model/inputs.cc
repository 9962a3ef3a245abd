#include "model/inputs.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "base/half.h"
#include "engine/dropout.h"

namespace kineograph::model {
namespace {

[[noreturn]] void refuse(const char* where, const std::string& expected, const std::string& found,
                         const std::string& hint = {}) {
  throw ArgumentError(where, expected, found, hint);
}

void warn(const ForwardOptions& options, const std::string& text) {
  if (options.on_warning) options.on_warning(text);
}

/// Element i of a (count) or () view of numbers; integers are exact up to 2^53.
double number_at(const TensorView& view, std::int64_t i) {
  const std::int64_t offset = view.rank() == 0 ? 0 : i * view.strides()[0];
  switch (view.dtype()) {
    case DType::i64:
      return static_cast<double>(static_cast<const std::int64_t*>(view.data())[offset]);
    case DType::i32:
      return static_cast<double>(static_cast<const std::int32_t*>(view.data())[offset]);
    case DType::f64:
      return static_cast<const double*>(view.data())[offset];
    case DType::f32:
      return static_cast<double>(static_cast<const float*>(view.data())[offset]);
    case DType::f16:
      return static_cast<double>(to_float(static_cast<const f16*>(view.data())[offset]));
    case DType::bf16:
      return static_cast<double>(to_float(static_cast<const bf16*>(view.data())[offset]));
    default:
      return 0.0;
  }
}

bool is_integer(DType dtype) { return dtype == DType::i64 || dtype == DType::i32; }

/// One number per video, from (B), (1) or ().
std::vector<double> per_video(const char* where, const TensorView& view, std::int64_t videos, bool integers) {
  const std::string expected = std::string(integers ? "integers" : "numbers") + " of shape [" + std::to_string(videos) +
                               "], one a video, or one for all";
  if (!view) refuse(where, expected, "none", "The configuration's norm_type needs it.");
  const bool fits = view.rank() == 0 || (view.rank() == 1 && (view.size(0) == videos || view.size(0) == 1));
  if (!fits || !(is_integer(view.dtype()) || (!integers && is_floating(view.dtype()))))
    refuse(where, expected, dtype_and_shape(view));
  const bool one = view.rank() == 0 || view.size(0) == 1;
  std::vector<double> values;
  for (std::int64_t video = 0; video < videos; ++video) values.push_back(number_at(view, one ? 0 : video));
  return values;
}

void check_range(const char* where, const std::vector<double>& values, std::int64_t most) {
  for (const double value : values)
    if (!(value >= 0.0 && value <= static_cast<double>(most)))
      refuse(where, "0 to " + std::to_string(most), std::to_string(static_cast<std::int64_t>(value)),
             "num_embeds_ada_norm sets the range.");
}

/// hidden_states -> extents.
void read_hidden_states(const TransformerTemporalConfig& config, const TensorView& hidden_states,
                        const ForwardOptions& options, engine::Inputs& inputs) {
  const char* where = "hidden_states";
  if (options.num_frames < 1) refuse("num_frames", "1 or more", std::to_string(options.num_frames));
  if (config.is_discrete()) {
    const std::int64_t side = *config.sample_size;
    if (!hidden_states || hidden_states.dtype() != DType::i64 || hidden_states.rank() != 2 ||
        hidden_states.size(1) != side * side)
      refuse(where, "i64 (B*F, " + std::to_string(side * side) + ") for num_vector_embeds",
             hidden_states ? dtype_and_shape(hidden_states) : "none");
    inputs.height = inputs.width = side;
  } else {
    if (!hidden_states || !is_image_dtype(hidden_states.dtype()) || hidden_states.rank() != 4 ||
        hidden_states.size(1) != *config.in_channels)
      refuse(where, "f32, f16 or bf16 (B*F, " + std::to_string(*config.in_channels) + ", H, W)",
             hidden_states ? dtype_and_shape(hidden_states) : "none");
    inputs.channels = hidden_states.size(1);
    inputs.height = hidden_states.size(2);
    inputs.width = hidden_states.size(3);
  }
  if (hidden_states.size(0) % options.num_frames != 0)
    refuse(where, "rows divisible by num_frames " + std::to_string(options.num_frames),
           std::to_string(hidden_states.size(0)) + " rows");
  if (config.positional_embeddings != PositionalEmbeddings::none &&
      options.num_frames > *config.num_positional_embeddings)
    refuse("num_frames", "at most num_positional_embeddings " + std::to_string(*config.num_positional_embeddings),
           std::to_string(options.num_frames));
  inputs.num_frames = options.num_frames;
  inputs.num_videos = hidden_states.size(0) / options.num_frames;
  inputs.hidden_states = hidden_states;
}

void check_classes(const TransformerTemporalConfig& config, const TensorView& classes) {
  const auto* ids = classes.data_as<std::int64_t>();
  for (std::int64_t row = 0; row < classes.size(0); ++row)
    for (std::int64_t i = 0; i < classes.size(1); ++i) {
      const std::int64_t id = ids[row * classes.strides()[0] + i * classes.strides()[1]];
      if (id < 0 || id >= *config.num_vector_embeds)
        refuse("hidden_states", "classes from 0 to " + std::to_string(*config.num_vector_embeds - 1),
               std::to_string(id) + " at [" + std::to_string(row) + ", " + std::to_string(i) + "]");
    }
}

void read_encoder(const TransformerTemporalConfig& config, const ForwardOptions& options, engine::Inputs& inputs) {
  const char* where = "encoder_hidden_states";
  const TensorView& encoder = options.encoder_hidden_states;
  const std::int64_t inner = config.inner_dim(), width = config.attn2_context_dim();
  if (!config.has_attn2()) {
    if (encoder) warn(options, "encoder_hidden_states has no effect: the blocks have no second attention");
    return;
  }
  if (!encoder) {
    if (width != inner)
      refuse(where, "a conditioning of width cross_attention_dim " + std::to_string(width), "none",
             "Without one attn2 attends to its own tokens, which are " + std::to_string(inner) + " wide.");
    return;
  }
  const std::int64_t videos = inputs.num_videos, sequences = videos * inputs.height * inputs.width;
  if (!is_image_dtype(encoder.dtype()) || encoder.rank() != 3 ||
      (encoder.size(0) != videos && encoder.size(0) != sequences) || encoder.size(1) < 1 || encoder.size(2) != width)
    refuse(where,
           "f32, f16 or bf16 (" + std::to_string(sequences) + ", S, " + std::to_string(width) +
               "), a row a pixel, or (" + std::to_string(videos) + ", S, " + std::to_string(width) + "), a row a video",
           dtype_and_shape(encoder));
  inputs.encoder_hidden_states = encoder;
  inputs.encoder_per_video = encoder.size(0) == videos;
}

void read_conditioning(const TransformerTemporalConfig& config, const ForwardOptions& options, engine::Inputs& inputs) {
  if (config.norm_type == NormType::layer_norm) {
    if (options.timestep) warn(options, "timestep has no effect with norm_type layer_norm");
  } else {
    const bool integers = config.norm_type == NormType::ada_norm;
    inputs.timestep = per_video("timestep", options.timestep, inputs.num_videos, integers);
    if (integers) check_range("timestep", inputs.timestep, *config.num_embeds_ada_norm - 1);
  }
  if (config.norm_type != NormType::ada_norm_zero) {
    if (options.class_labels)
      warn(options, "class_labels has no effect with norm_type " + std::string(name_of(config.norm_type)));
    return;
  }
  const std::vector<double> labels = per_video("class_labels", options.class_labels, inputs.num_videos, true);
  check_range("class_labels", labels, *config.num_embeds_ada_norm);
  for (const double label : labels) inputs.class_labels.push_back(static_cast<std::int64_t>(label));
  if (!options.training_seed) return;
  // diffusers' LabelEmbedding in training: one label in ten becomes the unconditional one.
  const engine::Dropout dropped(0.1, *options.training_seed, 0, engine::DropoutSite::labels);
  for (std::size_t video = 0; video < inputs.class_labels.size(); ++video)
    if (dropped(static_cast<std::int64_t>(video), 0) == 0.0) inputs.class_labels[video] = *config.num_embeds_ada_norm;
}

void read_processors(const TransformerTemporalConfig& config, const std::vector<std::string>& names,
                     const ForwardOptions& options, engine::Inputs& inputs) {
  static const CrossAttentionKwargs kNone;
  inputs.cross_attention_kwargs = options.cross_attention_kwargs ? options.cross_attention_kwargs : &kNone;
  if (options.attention_processors != nullptr && !options.attention_processors->empty()) {
    static std::atomic<std::uint64_t> forwards{0};
    inputs.forward = ++forwards;
    inputs.processors.assign(2 * static_cast<std::size_t>(config.num_layers), nullptr);
    const std::size_t each = config.has_attn2() ? 2 : 1;
    for (const auto& [name, processor] : *options.attention_processors) {
      const auto found = std::find(names.begin(), names.end(), name);
      if (found == names.end()) {
        std::string known;
        for (const std::string& one : names) known += (known.empty() ? "one of " : ", ") + one;
        refuse("attention_processors", known, name);
      }
      const auto i = static_cast<std::size_t>(found - names.begin());
      inputs.processors[i / each * 2 + i % each] = processor.get();
    }
  }
  for (const auto& [key, value] : *inputs.cross_attention_kwargs) {
    if (key == "scale") {
      warn(options, "cross_attention_kwargs: scale is deprecated and ignored");
      continue;
    }
    const bool understood =
        std::any_of(inputs.processors.begin(), inputs.processors.end(),
                    [&name = key](const AttentionProcessor* p) { return p != nullptr && p->accepts(name); });
    if (!understood)
      warn(options, "cross_attention_kwargs: " + key + " is not understood by any processor, and ignored");
  }
}

}  // namespace

std::string dtype_and_shape(const TensorView& view) {
  return std::string(name_of(view.dtype())) + " " + to_string(view.shape());
}

bool is_image_dtype(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

engine::Inputs read_inputs(const TransformerTemporalConfig& config, const std::vector<std::string>& names,
                           const TensorView& hidden_states, const ForwardOptions& options) {
  engine::Inputs inputs;
  read_hidden_states(config, hidden_states, options, inputs);
  if (config.is_discrete()) check_classes(config, hidden_states);
  read_encoder(config, options, inputs);
  read_conditioning(config, options, inputs);
  read_processors(config, names, options, inputs);
  inputs.training_seed = options.training_seed;
  inputs.num_threads = options.num_threads;
  if (inputs.num_threads < 0) refuse("num_threads", "0 or more", std::to_string(options.num_threads));
  return inputs;
}

}  // namespace kineograph::model

#include "model/inputs.h"

#include <algorithm>
#include <atomic>

#include "model/arguments.h"
#include "model/views.h"

namespace kineograph::model {
namespace {

/// A window's frames and stride.
void read_context(const TransformerTemporalConfig& config, DType dtype, const ForwardOptions& options,
                  engine::Inputs& inputs) {
  if (!options.context) return;
  const ContextOptions& context = *options.context;
  if (context.length < 1 || context.length > options.num_frames)
    refuse("context.length", "1 to num_frames, " + std::to_string(options.num_frames), std::to_string(context.length));
  if (context.stride < 1 || context.stride > context.length)
    refuse("context.stride", "1 to context.length, " + std::to_string(context.length), std::to_string(context.stride),
           "A larger one would leave frames out.");
  if (options.training_seed && config.dropout > 0.0)
    refuse("context", "none in training with dropout", "windows of " + std::to_string(context.length) + " frames");
  inputs.context = engine::context_windows(context, options.num_frames, dtype);
}

/// hidden_states -> extents.
void read_hidden_states(const TransformerTemporalConfig& config, const TensorView& hidden_states,
                        const ForwardOptions& options, engine::Inputs& inputs) {
  const char* where = "hidden_states";
  check_view(where, hidden_states);
  if (options.num_frames < 1) refuse("num_frames", "1 or more", std::to_string(options.num_frames));
  if (config.is_discrete()) {
    const std::int64_t side = *config.sample_size;
    const bool fits = hidden_states && hidden_states.dtype() == DType::i64 && hidden_states.rank() == 2 &&
                      (hidden_states.size(1) == side * side ||
                       (options.communicator != nullptr && hidden_states.size(1) % side == 0));
    if (!fits)
      refuse(where, "i64 (B*F, " + std::to_string(side * side) + ") for num_vector_embeds",
             hidden_states ? dtype_and_shape(hidden_states) : "none");
    inputs.height = hidden_states.size(1) / side;
    inputs.width = side;
  } else {
    read_image(config, hidden_states, "B*F", inputs);
  }
  if (hidden_states.size(0) % options.num_frames != 0)
    refuse(where, "rows divisible by num_frames " + std::to_string(options.num_frames),
           std::to_string(hidden_states.size(0)) + " rows");
  const std::int64_t attended = inputs.context.attended_frames(options.num_frames);
  if (config.positional_embeddings != PositionalEmbeddings::none && attended > *config.num_positional_embeddings)
    refuse(inputs.context.empty() ? "num_frames" : "context.length",
           "at most num_positional_embeddings " + std::to_string(*config.num_positional_embeddings),
           std::to_string(attended));
  inputs.num_frames = options.num_frames;
  inputs.num_videos = hidden_states.size(0) / options.num_frames;
  inputs.hidden_states = hidden_states;
}

/// The rows of the whole picture that hidden_states has.
void read_rows(const TransformerTemporalConfig& config, const ForwardOptions& options, engine::Inputs& inputs) {
  const std::int64_t first = options.first_image_row, total = options.total_image_rows;
  if (options.communicator == nullptr) {
    if (first != 0) refuse("first_image_row", "0 without a communicator", std::to_string(first));
    if (total != 0 && total != inputs.height)
      refuse("total_image_rows", "0 without a communicator", std::to_string(total));
    return;
  }
  if (config.is_discrete() && total != *config.sample_size)
    refuse("total_image_rows", "sample_size " + std::to_string(*config.sample_size), std::to_string(total));
  if (total < 1 || total < inputs.height)
    refuse("total_image_rows", "the rows of all ranks together, " + std::to_string(inputs.height) + " of them here",
           std::to_string(total));
  if (first < 0 || first > total - inputs.height)
    refuse("first_image_row",
           "0 to " + std::to_string(total - inputs.height) + " for " + std::to_string(inputs.height) + " rows of " +
               std::to_string(total),
           std::to_string(first));
  inputs.first_row = first;
  inputs.total_rows = total;
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
  check_view(where, encoder);
  const std::int64_t inner = config.inner_dim(), width = config.attn2_context_dim();
  if (!config.has_attn2()) {
    if (encoder) warn(options.on_warning, "encoder_hidden_states has no effect: the blocks have no second attention");
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
      warn(options.on_warning, "cross_attention_kwargs: scale is deprecated and ignored");
      continue;
    }
    const bool understood =
        std::any_of(inputs.processors.begin(), inputs.processors.end(),
                    [&name = key](const AttentionProcessor* p) { return p != nullptr && p->accepts(name); });
    if (!understood)
      warn(options.on_warning, "cross_attention_kwargs: " + key + " is not understood by any processor, and ignored");
  }
}

}  // namespace

engine::Inputs read_inputs(const TransformerTemporalConfig& config, DType dtype, const std::vector<std::string>& names,
                           const TensorView& hidden_states, const ForwardOptions& options) {
  engine::Inputs inputs;
  if (options.num_frames >= 1) read_context(config, dtype, options, inputs);
  read_hidden_states(config, hidden_states, options, inputs);
  read_rows(config, options, inputs);
  if (config.is_discrete()) check_classes(config, hidden_states);
  read_encoder(config, options, inputs);
  read_conditioning(config, options.timestep, options.class_labels, options.training_seed, options.on_warning, "video",
                    inputs);
  read_processors(config, names, options, inputs);
  inputs.training_seed = options.training_seed;
  read_threads(options, inputs);
  return inputs;
}

}  // namespace kineograph::model

#include "model/arguments.h"

#include "base/half.h"
#include "base/threads.h"
#include "engine/dropout.h"
#include "model/views.h"

namespace kineograph::model {
namespace {

bool is_integer(DType dtype) { return dtype == DType::i64 || dtype == DType::i32; }

/// One number per video, from (B), (1) or ().
std::vector<double> per_video(const char* where, const TensorView& view, std::int64_t videos, bool integers,
                              const std::string& each) {
  const std::string expected = std::string(integers ? "integers" : "numbers") + " of shape [" + std::to_string(videos) +
                               "], one a " + each + ", or one for all";
  if (!view) refuse(where, expected, "none", "The configuration's norm_type needs it.");
  check_view(where, view);
  const bool fits = view.rank() == 0 || (view.rank() == 1 && (view.size(0) == videos || view.size(0) == 1));
  if (!fits || !(is_integer(view.dtype()) || (!integers && is_floating(view.dtype()))))
    refuse(where, expected, dtype_and_shape(view));
  const bool one = view.rank() == 0 || view.size(0) == 1;
  std::vector<double> values;
  for (std::int64_t video = 0; video < videos; ++video)
    values.push_back(number(view, one ? 0 : video * view.strides()[0]));
  return values;
}

void check_range(const char* where, const std::vector<double>& values, std::int64_t most) {
  for (const double value : values)
    if (!(value >= 0.0 && value <= static_cast<double>(most)))
      refuse(where, "0 to " + std::to_string(most), std::to_string(static_cast<std::int64_t>(value)),
             "num_embeds_ada_norm sets the range.");
}

}  // namespace

void refuse(const char* where, const std::string& expected, const std::string& found, const std::string& hint) {
  throw ArgumentError(where, expected, found, hint);
}

void warn(const WarningHandler& on_warning, const std::string& text) {
  if (on_warning) on_warning(text);
}

std::string dtype_and_shape(const TensorView& view) {
  return std::string(name_of(view.dtype())) + " " + to_string(view.shape());
}

bool is_image_dtype(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

double number(const TensorView& view, std::int64_t offset) {
  const auto as = [&]<class T>(T) { return static_cast<const T*>(view.data())[offset]; };
  switch (view.dtype()) {
    case DType::f64:
      return as(double());
    case DType::f32:
      return static_cast<double>(as(float()));
    case DType::f16:
      return static_cast<double>(to_float(as(f16())));
    case DType::bf16:
      return static_cast<double>(to_float(as(bf16())));
    case DType::i64:
      return static_cast<double>(as(std::int64_t()));
    case DType::i32:
      return static_cast<double>(as(std::int32_t()));
    case DType::i16:
      return static_cast<double>(as(std::int16_t()));
    case DType::i8:
      return static_cast<double>(as(std::int8_t()));
    case DType::u8:
    case DType::boolean:
      return static_cast<double>(as(std::uint8_t()));
    case DType::f8_e4m3fn:  // stored weights only: no argument is one
    case DType::f8_e5m2:
      break;
  }
  return 0.0;
}

int checked_threads(int num_threads, const WarningHandler& on_warning) {
  if (num_threads == 0 && on_warning)
    if (const std::string problem = take_thread_setting_problem(); !problem.empty()) warn(on_warning, problem);
  if (num_threads < 0) refuse("num_threads", "0 or more", std::to_string(num_threads));
  return num_threads;
}

void read_image(const TransformerConfig& config, const TensorView& hidden_states, const std::string& rows,
                engine::Inputs& inputs) {
  check_view("hidden_states", hidden_states);
  if (!hidden_states || !is_image_dtype(hidden_states.dtype()) || hidden_states.rank() != 4 ||
      hidden_states.size(1) != *config.in_channels)
    refuse("hidden_states", "f32, f16 or bf16 (" + rows + ", " + std::to_string(*config.in_channels) + ", H, W)",
           hidden_states ? dtype_and_shape(hidden_states) : "none");
  inputs.channels = hidden_states.size(1);
  inputs.height = hidden_states.size(2);
  inputs.width = hidden_states.size(3);
}

void read_conditioning(const TransformerConfig& config, const TensorView& timestep, const TensorView& class_labels,
                       std::optional<std::uint64_t> training_seed, const WarningHandler& on_warning,
                       const std::string& each, engine::Inputs& inputs) {
  if (config.norm_type == NormType::layer_norm) {
    if (timestep) warn(on_warning, "timestep has no effect with norm_type layer_norm");
  } else {
    const bool integers = config.norm_type == NormType::ada_norm;
    inputs.timestep = per_video("timestep", timestep, inputs.num_videos, integers, each);
    if (integers) check_range("timestep", inputs.timestep, *config.num_embeds_ada_norm - 1);
  }
  if (config.norm_type != NormType::ada_norm_zero) {
    if (class_labels)
      warn(on_warning, "class_labels has no effect with norm_type " + std::string(name_of(config.norm_type)));
    return;
  }
  const std::vector<double> labels = per_video("class_labels", class_labels, inputs.num_videos, true, each);
  check_range("class_labels", labels, *config.num_embeds_ada_norm);
  for (const double label : labels) inputs.class_labels.push_back(static_cast<std::int64_t>(label));
  if (!training_seed) return;
  // diffusers' LabelEmbedding in training: one label in ten becomes the unconditional one.
  const engine::Dropout dropped(0.1, *training_seed, 0, engine::DropoutSite::labels);
  for (std::size_t video = 0; video < inputs.class_labels.size(); ++video)
    if (dropped(static_cast<std::int64_t>(video), 0) == 0.0) inputs.class_labels[video] = *config.num_embeds_ada_norm;
}

}  // namespace kineograph::model

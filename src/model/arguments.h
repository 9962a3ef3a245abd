// The checks of arguments that the models share.
#pragma once

#include <optional>
#include <string>

#include "engine/engine.h"
#include "kineograph/error.h"
#include "kineograph/model.h"

namespace kineograph::model {

/// Throws ArgumentError.
[[noreturn]] void refuse(const char* where, const std::string& expected, const std::string& found,
                         const std::string& hint = {});
void warn(const WarningHandler& on_warning, const std::string& text);

/// "f32 [2, 320, 64, 64]"
std::string dtype_and_shape(const TensorView& view);

/// Dtypes of images: f32, f16 and bf16.
bool is_image_dtype(DType dtype);

/// The element at an offset of a view of any dtype; integers are exact up to 2^53.
double number(const TensorView& view, std::int64_t offset);

/// `num_threads`, which is not negative. For 0, warns of a KINEOGRAPH_NUM_THREADS that is no number, once.
int checked_threads(int num_threads, const WarningHandler& on_warning);

/// The threads that the options of a call ask for.
template <class Options>
void read_threads(const Options& options, engine::Inputs& inputs) {
  inputs.num_threads = checked_threads(options.num_threads, options.on_warning);
  inputs.executor = options.executor;
}

/// hidden_states (rows, C, H, W) -> channels, height and width. `rows` names the first extent in errors.
void read_image(const TransformerConfig& config, const TensorView& hidden_states, const std::string& rows,
                engine::Inputs& inputs);

/// timestep and class_labels, as far as norm_type asks for them; one a video, which errors call `each`.
void read_conditioning(const TransformerConfig& config, const TensorView& timestep, const TensorView& class_labels,
                       std::optional<std::uint64_t> training_seed, const WarningHandler& on_warning,
                       const std::string& each, engine::Inputs& inputs);

}  // namespace kineograph::model

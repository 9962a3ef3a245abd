// Weights stored in 8 bits.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kineograph/tensor.h"

namespace kineograph::model {

bool is_eight_bit(DType dtype) noexcept;
/// The dtype that values of `dtype` are read as: f16 for 8-bit floats, itself for others.
DType read_dtype(DType dtype) noexcept;

/// The parameter whose scale a tensor of this name is: NAME of NAME.weight_scale or NAME.scale_weight, with ".weight"
/// after it; nullopt for other names.
std::optional<std::string> scaled_parameter(std::string_view name);
/// Whether a name is that of a companion without effect on weights: the scale of a layer's input.
bool is_input_scale(std::string_view name);

/// Why a weight cannot be read with a scale; empty where it can.
std::string scale_problem(const TensorView& weight, const TensorView& scale);

/// f16 values of an 8-bit weight, of which every one is exact; times `scale`, if there is one, in f32 and rounded once.
Tensor widened(const TensorView& weight, const TensorView& scale);

}  // namespace kineograph::model

#include "model/widen.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/half.h"

namespace kineograph::model {
namespace {

// Named by ComfyUI and by the libraries that serve language models.
constexpr std::string_view kScales[] = {".scale_weight", ".weight_scale"};
constexpr std::string_view kInputScales[] = {".scale_input", ".input_scale"};

/// Four bits of exponent with a bias of 7, three of mantissa, no infinity (OCP 8-bit floating point
/// specification, 5.1).
float from_e4m3fn(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                  : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if (exponent == 15 && mantissa == 7) magnitude = std::numeric_limits<float>::quiet_NaN();
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

/// The upper half of an f16.
float from_e5m2(std::uint8_t bits) { return to_float(f16{static_cast<std::uint16_t>(bits << 8)}); }

std::array<float, 256> table_of(DType dtype) {
  std::array<float, 256> table;
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto bits = static_cast<std::uint8_t>(i);
    table[i] = dtype == DType::f8_e5m2 ? from_e5m2(bits) : from_e4m3fn(bits);
  }
  return table;
}

}  // namespace

bool is_eight_bit(DType dtype) noexcept { return dtype == DType::f8_e4m3fn || dtype == DType::f8_e5m2; }
DType read_dtype(DType dtype) noexcept { return is_eight_bit(dtype) ? DType::f16 : dtype; }

std::optional<std::string> scaled_parameter(std::string_view name) {
  for (const std::string_view ending : kScales)
    if (name.ends_with(ending)) return std::string(name.substr(0, name.size() - ending.size())) + ".weight";
  return std::nullopt;
}

bool is_input_scale(std::string_view name) {
  for (const std::string_view ending : kInputScales)
    if (name.ends_with(ending)) return true;
  return false;
}

std::string scale_problem(const TensorView& weight, const TensorView& scale) {
  if (!is_eight_bit(weight.dtype()))
    return "a scale for a weight of " + std::string(name_of(weight.dtype())) + ", which needs none";
  const bool rows =
      weight.rank() > 0 && (scale.shape() == Shape{weight.size(0)} || scale.shape() == Shape{weight.size(0), 1});
  if (is_floating(scale.dtype()) && (scale.numel() == 1 || rows)) return {};
  return "a scale of " + std::string(name_of(scale.dtype())) + " " + to_string(scale.shape()) +
         ", not one number or one a row";
}

Tensor widened(const TensorView& weight, const TensorView& scale) {
  const std::array<float, 256> table = table_of(weight.dtype());
  const Tensor bytes = convert(weight, weight.dtype());
  const auto* in = static_cast<const std::uint8_t*>(bytes.data());
  Tensor out(DType::f16, weight.shape());
  const std::int64_t count = out.numel();
  const Tensor scales = scale ? convert(scale, DType::f32) : Tensor();
  const float* factors = scale ? scales.data_as<float>() : nullptr;
  const std::int64_t per_factor = scale ? count / std::max<std::int64_t>(1, scales.numel()) : count;
  auto* to = out.data_as<f16>();
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = to_f16(table[in[i]] * (factors != nullptr ? factors[i / per_factor] : 1.0f));
  return out;
}

}  // namespace kineograph::model

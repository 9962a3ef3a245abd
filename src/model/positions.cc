#include "model/positions.h"

#include <algorithm>
#include <cmath>

#include "kineograph/error.h"
#include "model/parameters.h"

namespace kineograph {

std::string_view name_of(PositionExtension value) noexcept {
  return value == PositionExtension::formula ? "formula" : "interpolate";
}

PositionExtension position_extension(std::string_view name, std::string_view where) {
  for (const PositionExtension value : {PositionExtension::formula, PositionExtension::interpolate})
    if (name_of(value) == name) return value;
  throw ArgumentError(std::string(where), "formula or interpolate", std::string(name));
}

namespace model {
namespace {

/// torch's interpolate(mode="linear", align_corners=False): rows are the middles of cells, and past the first and the
/// last middle there is nothing to reach for.
void stretch(const float* from, std::int64_t count, float* to, std::int64_t rows, std::int64_t width) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const double middle =
        (static_cast<double>(row) + 0.5) * static_cast<double>(count) / static_cast<double>(rows) - 0.5;
    const double place = std::max(0.0, middle);
    const auto low = std::min(static_cast<std::int64_t>(place), count - 1), high = std::min(low + 1, count - 1);
    const double share = place - static_cast<double>(low);
    for (std::int64_t i = 0; i < width; ++i) {
      const double a = from[low * width + i], b = from[high * width + i];
      to[row * width + i] = static_cast<float>((1.0 - share) * a + share * b);
    }
  }
}

}  // namespace

TransformerTemporalConfig with_positions(TransformerTemporalConfig config, std::optional<std::int64_t> rows,
                                         const std::string& owner) {
  if (!rows) return config;
  if (config.positional_embeddings == PositionalEmbeddings::none)
    throw ArgumentError("num_positional_embeddings", "a module with positions", owner + ", which has none");
  if (*rows < *config.num_positional_embeddings)
    throw ArgumentError("num_positional_embeddings",
                        std::to_string(*config.num_positional_embeddings) + " or more, as there are",
                        std::to_string(*rows));
  config.num_positional_embeddings = rows;
  return config;
}

Tensor extended_positions(const TensorView& table, std::int64_t rows, PositionExtension extension) {
  const std::int64_t count = table.size(1), width = table.size(2);
  const Tensor known = convert(table, DType::f32);
  const auto* from = known.data_as<float>();
  if (extension == PositionExtension::interpolate && count < rows) {
    Tensor stretched(DType::f32, {1, rows, width});
    stretch(from, count, stretched.data_as<float>(), rows, width);
    return stretched;
  }
  Tensor longer = sinusoidal_positions(rows, width);
  std::copy_n(from, std::min(known.numel(), longer.numel()), longer.data_as<float>());
  return longer;
}

}  // namespace model
}  // namespace kineograph

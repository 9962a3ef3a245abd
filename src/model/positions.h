// Longer position tables: of a file that is converted, and of a model that is opened.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kineograph/config.h"
#include "kineograph/positions.h"
#include "kineograph/tensor.h"

namespace kineograph::model {

/// The configuration with `rows` positions, where given. Throws ArgumentError for fewer than there are, and where there
/// are none; `owner` is named then.
TransformerTemporalConfig with_positions(TransformerTemporalConfig config, std::optional<std::int64_t> rows,
                                         const std::string& owner);

/// A table (1, rows, width) in f32 out of one of (1, n, width), n <= rows. With as many rows it is the same.
Tensor extended_positions(const TensorView& table, std::int64_t rows, PositionExtension extension);

}  // namespace kineograph::model

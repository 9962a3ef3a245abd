// Position tables for clips that are longer than those a model was trained with.
#pragma once

#include <string_view>

#include "kineograph/export.h"

namespace kineograph {

/// How a position table gets more rows.
enum class PositionExtension {
  formula,      ///< the rows that are there stay, further ones are diffusers' sines and cosines
  interpolate,  ///< the rows that are there are stretched over all, as torch's interpolate(mode="linear") does
};
KINEOGRAPH_API std::string_view name_of(PositionExtension value) noexcept;
/// By its name; throws ArgumentError, which is about `where`.
KINEOGRAPH_API PositionExtension position_extension(std::string_view name,
                                                    std::string_view where = "position_extension");

}  // namespace kineograph

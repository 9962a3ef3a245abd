// The names under which checkpoints keep the parameters of temporal modules.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kineograph/checkpoint.h"

namespace kineograph::model {

/// A key of a file as diffusers would have it.
struct Place {
  Layout layout;
  std::string module;     ///< "down_blocks.0.motion_modules.1"; empty for a module by itself
  std::string parameter;  ///< "transformer_blocks.0.attn1.to_q.weight"
};

/// Where a key of any known layout belongs; nullopt for what is no temporal module's.
std::optional<Place> place_of(std::string_view key);

/// The original AnimateDiff's key for a parameter of diffusers' motion module.
std::string animatediff_key(std::string_view module, std::string_view parameter);

}  // namespace kineograph::model

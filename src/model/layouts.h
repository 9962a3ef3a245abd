// The names under which checkpoints keep the parameters of temporal modules.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kineograph/modules.h"

namespace kineograph::model {

/// A key of a file as diffusers would have it.
struct Place {
  Layout layout;
  std::string prefix;     ///< what stands before: "module._orig_mod"; empty for nothing
  std::string module;     ///< "down_blocks.0.motion_modules.1"; empty for a module by itself
  std::string parameter;  ///< "transformer_blocks.0.attn1.to_q.weight"
};

/// Where a key of any known layout belongs, whatever stands before it; nullopt for what is no temporal module's.
std::optional<Place> place_of(std::string_view key);

/// A key of a UNet as diffusers would have it, of a Transformer2DModel or a TransformerSpatioTemporalModel.
struct SpatialPlace {
  std::string module;       ///< "down_blocks.0.attentions.1"; empty for a module by itself
  std::string parameter;    ///< "transformer_blocks.0.attn1.to_q.weight"
  std::string prefix = {};  ///< what stands before; empty for nothing
};

/// Where a key belongs; nullopt for what is no spatial module's.
std::optional<SpatialPlace> spatial_place_of(std::string_view key);

/// Sorts modules as the data passes them: transformer_in, down_blocks, mid_block, up_blocks, and numbers as numbers.
std::vector<std::int64_t> order_of(const std::string& module);

/// The original AnimateDiff's key for a parameter of diffusers' motion module.
std::string animatediff_key(std::string_view module, std::string_view parameter);

}  // namespace kineograph::model

// The shapes that kineograph bench measures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kineograph/config.h"

namespace kineograph::cli {

struct BenchShape {
  std::string id;
  std::int64_t videos, frames, channels, height, width, heads, head_dim, positions;
  /// Of a spatial model: the preset that it is, and the tokens of its text.
  std::string preset = {};
  std::int64_t tokens = 0;
};

/// The modules of published models at the sizes they are used at, two videos a call for classifier-free guidance; "s"
/// is one without.
const std::vector<BenchShape>& known_shapes();
/// A known shape's id, BxFxCxHxW:headsxdim, or PRESET@BxFxHxW:tokens of a preset such as sd15/320 or svd/320. Throws
/// CLI::ValidationError.
BenchShape parse_shape(const std::string& text);
/// A module of that shape: its preset, or a temporal one with two self-attentions and GEGLU.
ModelConfig config_of(const BenchShape& shape);
/// Floating-point operations of one forward: two for a multiply-add of a matrix product or an attention.
double forward_flops(const BenchShape& shape);
/// Prints the shapes, for people or for the scripts of bench/.
void print_shapes(const std::vector<BenchShape>& shapes, bool json);

}  // namespace kineograph::cli

// The epsilons of diffusers' norms.
#pragma once

#include <cstddef>

#include "kineograph/config.h"

namespace kineograph::engine {

inline constexpr double kGroupNormEpsilon = 1e-6;  ///< of the input's GroupNorm
inline constexpr double kNormOutEpsilon = 1e-5;    ///< of norm_out, behind discrete latents

/// Of norm1, norm2 and norm3 (`which` 0 to 2): norm_eps, but conditioned norms have diffusers' own.
inline double norm_epsilon(const TransformerConfig& config, std::size_t which) {
  if (which == 0 && config.norm_type == NormType::ada_norm_zero) return 1e-6;
  if (which < 2 && config.norm_type == NormType::ada_norm) return 1e-5;
  return config.norm_eps;
}

}  // namespace kineograph::engine

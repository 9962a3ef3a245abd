// Damages clean windows, as a trainer needs them.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "video/restore/restoration.h"
#include "video/train/random.h"

namespace kineograph::video {

/// How windows are damaged; sigma, gain and offset in levels of 0..255.
struct DamageOptions {
  double least_sigma = 5, most_sigma = 55;                      ///< of a window's noise, uniform
  std::array<double, kDamages> probabilities{0.9, 0.05, 0.05};  ///< of noise, flicker, both
  double gain = 0.25, offset = 20;                              ///< of a frame: 1 +- gain and +- offset, uniform
};

/// Damage of a window.
struct AppliedDamage {
  Damage damage = Damage::noise;
  double sigma = 0;  ///< in the units of colours
  /// Mean of a frame in the same window with the same noise and no flicker.
  Moments level;
};

/// Draws a damage and applies it: level * gain + offset + noise, rounded and clipped to 0..255. `clean` and `damaged`
/// are `frames` frames of 8-bit colours of equal size.
AppliedDamage apply_damage(Random& random, const DamageOptions& options, std::int64_t frames,
                           std::span<const std::uint8_t> clean, std::span<std::uint8_t> damaged);

/// 8-bit levels to colours of -1..1.
inline float to_colour(std::uint8_t level) { return static_cast<float>(level * kLevel - 1); }

}  // namespace kineograph::video

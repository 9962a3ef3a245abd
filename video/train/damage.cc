#include "video/train/damage.h"

#include <cmath>
#include <vector>

namespace kineograph::video {
namespace {

std::uint8_t to_level(double value) {
  return value <= 0 ? 0 : value >= 254.5 ? 255 : static_cast<std::uint8_t>(value + 0.5);
}

Damage draw_damage(Random& random, const std::array<double, kDamages>& probabilities) {
  double place = random.uniform() * (probabilities[0] + probabilities[1] + probabilities[2]);
  for (std::int64_t i = 0; i + 1 < kDamages; ++i) {
    if (place < probabilities[static_cast<std::size_t>(i)]) return static_cast<Damage>(i);
    place -= probabilities[static_cast<std::size_t>(i)];
  }
  // Rounding must not make possible what has no probability.
  return probabilities[2] > 0 ? Damage::both : probabilities[1] > 0 ? Damage::flicker : Damage::noise;
}

}  // namespace

AppliedDamage apply_damage(Random& random, const DamageOptions& options, std::int64_t frames,
                           std::span<const std::uint8_t> clean, std::span<std::uint8_t> damaged) {
  AppliedDamage applied;
  applied.damage = draw_damage(random, options.probabilities);
  const double sigma = has_noise(applied.damage) ? random.uniform(options.least_sigma, options.most_sigma) : 0;
  applied.sigma = sigma * kLevel;
  const std::size_t values = clean.size() / static_cast<std::size_t>(frames);
  Moments sum{0, 0};
  for (std::size_t f = 0; f < static_cast<std::size_t>(frames); ++f) {
    double gain = 1, offset = 0;
    if (has_flicker(applied.damage)) {
      gain = random.uniform(1 - options.gain, 1 + options.gain);
      offset = random.uniform(-options.offset, options.offset);
    }
    std::int64_t total = 0, squares = 0;
    for (std::size_t i = f * values; i < (f + 1) * values; ++i) {
      const double noise = sigma > 0 ? sigma * random.normal() : 0;
      damaged[i] = to_level(clean[i] * gain + offset + noise);
      const std::int64_t steady = to_level(clean[i] + noise);
      total += steady;
      squares += steady * steady;
    }
    const double count = static_cast<double>(values), mean = static_cast<double>(total) / count;
    sum.mean += mean * kLevel - 1;
    sum.deviation += std::sqrt(std::max(0.0, static_cast<double>(squares) / count - mean * mean)) * kLevel;
  }
  applied.level = {sum.mean / static_cast<double>(frames), sum.deviation / static_cast<double>(frames)};
  return applied;
}

}  // namespace kineograph::video

#include "video/restore/restoration.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kineograph/error.h"

namespace kineograph::video {

std::string_view name_of(Damage damage) noexcept {
  switch (damage) {
    case Damage::noise:
      return "noise";
    case Damage::flicker:
      return "flicker";
    case Damage::both:
      break;
  }
  return "both";
}

std::optional<Damage> damage_of(std::string_view name) noexcept {
  for (std::int64_t i = 0; i < kDamages; ++i)
    if (name == name_of(static_cast<Damage>(i))) return static_cast<Damage>(i);
  return {};
}

Moments moments_of(std::span<const float> rgb) {
  // Colours are of the order of 1 and double sums millions of them without loss that matters: one pass.
  double sum = 0, squares = 0;
  for (const float value : rgb) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const double count = static_cast<double>(rgb.size()), mean = sum / count;
  return {mean, std::sqrt(std::max(0.0, squares / count - mean * mean))};
}

Moments pooled(std::span<const Moments> frames) {
  double mean = 0, squares = 0;
  for (const Moments& frame : frames) {
    mean += frame.mean;
    squares += frame.deviation * frame.deviation + frame.mean * frame.mean;
  }
  const double count = static_cast<double>(frames.size());
  mean /= count;
  return {mean, std::sqrt(std::max(0.0, squares / count - mean * mean))};
}

Moments average(std::span<const Moments> frames) {
  Moments sum{0, 0};
  for (const Moments& frame : frames) {
    sum.mean += frame.mean;
    sum.deviation += frame.deviation;
  }
  const double count = static_cast<double>(frames.size());
  return {sum.mean / count, sum.deviation / count};
}

Normalisation normalise(Damage damage, std::span<const Moments> frames, Moments level) {
  const auto floored = [](Moments moments) {
    moments.deviation = std::max(moments.deviation, kLevel);
    return moments;
  };
  Normalisation normalisation;
  if (has_flicker(damage)) {
    for (const Moments& frame : frames) normalisation.frames.push_back(floored(frame));
    normalisation.level = floored(level);
  } else {
    normalisation.level = floored(pooled(frames));
    normalisation.frames.assign(frames.size(), normalisation.level);
  }
  return normalisation;
}

float timestep_of(double sigma, const Moments& level) {
  return static_cast<float>(1000 * std::min(1.0, sigma / level.deviation));
}

std::int64_t patch_of(const TransformerTemporalConfig& config) {
  const std::int64_t channels = config.in_channels.value_or(0);
  std::int64_t patch = 1;
  while (3 * patch * patch < channels) ++patch;
  if (3 * patch * patch != channels)
    throw ConfigError("in_channels", "3 x patch x patch, such as 192, in a model for restoring video",
                      config.in_channels ? std::to_string(channels) : "none");
  if (config.norm_type != NormType::ada_norm_zero || config.num_embeds_ada_norm != kDamages)
    throw ConfigError("norm_type",
                      "ada_norm_zero with num_embeds_ada_norm 3 (noise, flicker, both) in a model for restoring video",
                      std::string(kineograph::name_of(config.norm_type)) +
                          (config.num_embeds_ada_norm ? " with " + std::to_string(*config.num_embeds_ada_norm) : ""));
  return patch;
}

bool predicts_noise(const TransformerTemporalConfig& config, Damage damage) {
  for (const auto& [key, value] : config.private_keys)
    if (key == "_prediction_type") {
      if (value == "\"epsilon\"") return has_noise(damage);
      if (value != "\"sample\"") throw ConfigError("_prediction_type", "\"sample\" or \"epsilon\"", value);
    }
  return false;
}

std::int64_t default_window(const TransformerTemporalConfig& config) {
  constexpr std::int64_t kMost = 16, kWithoutPositions = 12;
  return std::min(kMost, config.num_positional_embeddings.value_or(kWithoutPositions));
}

}  // namespace kineograph::video

// Input and sample of a model that restores video: shared by `train` and `restore`, so that a model
// is used as it was trained.
//
// A window is F consecutive frames in colours of -1..1, as frame_to_rgb gives them, folded into patches. A model sees
// it normalised and predicts the undamaged window, normalised too:
//
//   noise           all frames by the window's own mean and deviation; sample * deviation + mean is the restored window
//   flicker, both   each frame by its own mean and deviation, which takes gain and offset out; sample * level.deviation
//                   + level.mean is the restored window, where `level` is what a frame of this window has without
//                   flicker. Training knows it; restoring takes the mean over many frames.
//
// A model whose config.json says "_prediction_type": "epsilon" (diffusers' schedulers' word) predicts the noise
// instead, where there is any: its input less its sample is the restored window. An inner width below in_channels then
// limits the picture, which is compressible, and not the noise, which is not.
//
// `timestep` says how much noise there is for the contrast there is: 1000 min(1, sigma / deviation). `class_labels`
// says which damage.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kineograph/model.h"

namespace kineograph::video {

/// Kinds of damage; their values are the class labels.
enum class Damage : std::int64_t { noise, flicker, both };
constexpr std::int64_t kDamages = 3;
/// "noise", "flicker", "both"
std::string_view name_of(Damage damage) noexcept;
/// The damage of that name; nothing for others.
std::optional<Damage> damage_of(std::string_view name) noexcept;
inline bool has_noise(Damage damage) noexcept { return damage != Damage::flicker; }
inline bool has_flicker(Damage damage) noexcept { return damage != Damage::noise; }

/// One of 255 levels in the units of colours.
constexpr double kLevel = 2.0 / 255;

/// Mean and standard deviation of colours.
struct Moments {
  double mean = 0, deviation = 1;
};
/// Of the values of a frame.
Moments moments_of(std::span<const float> rgb);
/// Of the values of several frames of equal size together.
Moments pooled(std::span<const Moments> frames);
/// The mean of several frames' means and of their deviations.
Moments average(std::span<const Moments> frames);

/// How a window is normalised.
struct Normalisation {
  /// Frame f's colours become (colour - frames[f].mean) / frames[f].deviation.
  std::vector<Moments> frames;
  /// A sample becomes colours by sample * level.deviation + level.mean.
  Moments level;
};
/// Of a window whose damaged frames have the moments `frames`; `level` counts where there is flicker. Deviations below
/// one level are taken as one level: a flat window stays finite.
Normalisation normalise(Damage damage, std::span<const Moments> frames, Moments level);

/// The model's timestep for noise of deviation `sigma`, in the units of colours, in a window of that level.
float timestep_of(double sigma, const Moments& level);

/// The patch of a model for restoring: p of its in_channels 3 p^2. Throws ConfigError for a model that takes no colours
/// or is not conditioned on timestep and kind of damage (norm_type ada_norm_zero, num_embeds_ada_norm 3).
std::int64_t patch_of(const TransformerTemporalConfig& config);

/// Whether sample is the noise in the input, not the input without it.
bool predicts_noise(const TransformerTemporalConfig& config, Damage damage);

/// Frames of a window by default: as many as the model has positions for, at most 16; 12 without positions.
std::int64_t default_window(const TransformerTemporalConfig& config);

}  // namespace kineograph::video

// How damaged a clip is, judged from its damaged frames.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "video/restore/restoration.h"

namespace kineograph::video {

/// The deviation of the noise in a frame, in the units of colours: from the diagonal differences inside 2 x 2 blocks,
/// where pictures have little and noise has all of its strength, robust against the edges that pictures do have, and
/// away from the blacks and whites that clip it. With the frame `before`, from the differences between the two where
/// that gives less: what stands still is then no noise. `before` may be empty. 0 for frames without a whole block.
double noise_deviation(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                       std::int64_t width);

/// Watches a clip's frames as they come and says what is wrong with them.
class DamageEstimate {
 public:
  /// The next frame: its noise_deviation(), the moments of its values, and how many pixels it has.
  void add(double noise, const Moments& moments, std::int64_t pixels);

  /// The median of the last frames' noise.
  double sigma() const;
  /// Damage of the last frames: flicker where their mean levels jump, noise where there is any beyond rounding.
  Damage damage() const;
  /// How far frames' mean levels jump from one to the next, beyond what a trend explains: a robust deviation, in the
  /// units of colours.
  double jumps() const;

 private:
  std::deque<double> sigmas_, means_, errors_;  // of the last frames; how far off a mean is by chance
};

/// The level that frames have without flicker, from as many frames as belong together.
class LevelEstimate {
 public:
  /// The level of a window: `fresh` are the frames that no earlier window had, `window` all of its frames.
  Moments update(std::span<const Moments> fresh, std::span<const Moments> window);

 private:
  double count_ = 0;
  Moments level_;
};

}  // namespace kineograph::video

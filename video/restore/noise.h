// How much noise a frame has, and how coarse it is.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace kineograph::video {

/// The deviation of the noise in a frame, in the units of colours: from the diagonal differences inside 2 x 2 blocks,
/// where pictures have little and noise has all of its strength, robust against the edges that pictures do have, and
/// away from the blacks and whites that clip it. Of one colour or several. With the frame `before`, from the
/// differences between the two where that gives less: what stands still is then no noise. `before` may be empty. 0 for
/// frames without a whole block.
double noise_deviation(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                       std::int64_t width);

/// Readings of white noise at two scales differ by up to so much, where something moves before it.
constexpr double kAlike = 1.25;

/// Noise at three scales: of the frame, of its 2 x 2 means and of its 4 x 4 means, the latter two multiplied by 2 and
/// by 4. White noise reads alike at all three. Film grain, demosaicking, subsampled chroma and compression make noise
/// alike in neighbouring pixels: it reads more at the coarser ones.
struct NoiseReading {
  std::array<double, 3> scales{};

  /// The noise's deviation over all scales: the sum of Haar bands. A band that differs along one direction alone is
  /// taken for the geometric mean of the diagonal ones beside it, and what is coarser than all for the coarsest.
  double sigma() const;
  /// How many times the coarsest reading is the finest; 1 for white noise.
  double coarseness() const;
};

/// The noise of a frame. Coarser scales are read from the differences to the frame `before`, of tiles: noise is in all
/// of a frame, motion in a part of it. Where the tiles differ too much to be noise, and without `before`, noise is
/// taken for white.
NoiseReading read_noise(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                        std::int64_t width);

}  // namespace kineograph::video

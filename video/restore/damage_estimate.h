// What is wrong with a clip, judged from its damaged frames.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "video/restore/noise.h"
#include "video/restore/restoration.h"
#include "video/scenes.h"

namespace kineograph::video {

/// What a frame, by itself and beside the frame before it, says of damage.
struct FrameReading {
  Moments moments;
  NoiseReading noise;
  Thumbnail thumbnail;
  std::int64_t pixels = 0;
};
FrameReading read_frame(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                        std::int64_t width);

/// What the frames of a window are taken for.
struct Judgement {
  std::optional<Damage> damage;  ///< absent: nothing is wrong, and they are copied
  double sigma = 0;              ///< the noise's deviation, in the units of colours
  double coarseness = 1;         ///< NoiseReading::coarseness()
  Moments level;                 ///< of a frame without flicker
  double slope = 0;              ///< how much that level's mean grows from frame to frame, around the window's middle

  bool operator==(const Judgement&) const = default;
};

/// Watches a scene's frames as they come and says what is wrong with them.
class DamageEstimate {
 public:
  void add(const FrameReading& reading);

  /// The median of the last frames' noise, at each scale.
  NoiseReading noise() const;
  /// Whether there is more of it than rounding to levels and a camera in good light leave.
  bool is_noisy() const;
  /// Whether the last frames' light jumps to and fro, all over the picture: light that somebody changes goes on for
  /// some frames, and a lamp lights a part of the picture.
  bool flickers() const;
  /// How far frames' mean levels jump from one to the next, beyond what a trend explains: a robust deviation, in the
  /// units of colours.
  double jumps() const;

 private:
  std::deque<NoiseReading> noises_;    // of the last frames, as all of these
  std::deque<double> means_, errors_;  // how far off a mean is by chance
  std::deque<double> locals_;          // the change from the frame before that no gain and offset explain
  Thumbnail before_;
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

/// Judges a clip's windows in their order.
class Judge {
 public:
  /// What is given is not judged. `sigma` is in the units of colours.
  Judge(std::optional<double> sigma, std::optional<Damage> damage) : sigma_(sigma), damage_(damage) {}
  /// Another scene has damage of its own.
  void begin_scene();
  /// Of a window's frames, the last `fresh` of which no earlier window had.
  Judgement judge(std::span<const FrameReading> window, std::size_t fresh);

 private:
  std::optional<double> sigma_;
  std::optional<Damage> damage_;
  DamageEstimate estimate_;
  LevelEstimate level_;
};

}  // namespace kineograph::video

// Clean windows to train on, cut out of videos or drawn.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "video/train/random.h"
#include "video/train/video.h"

namespace kineograph::video {

/// Extents of a window: `frames` frames of `crop` x `crop` pixels, (F, 3, crop, crop) in 8-bit colours.
struct WindowExtents {
  std::int64_t frames, crop;
  std::int64_t frame_values() const noexcept { return 3 * crop * crop; }
  std::int64_t values() const noexcept { return frames * frame_values(); }
};

/// Something windows can be drawn from, any number of threads at a time.
class WindowSource {
 public:
  virtual ~WindowSource() = default;
  virtual void draw(Random& random, const WindowExtents& extents, std::span<std::uint8_t> window) const = 0;
};

/// Windows of a video: frames 1 to 3 apart, any place, scaled down 1 to 4 times, forwards or backwards, and none across
/// a cut; where a scene is too short it is played back and forth. Throws ArgumentError for a video that is smaller than
/// a window.
std::unique_ptr<WindowSource> windows_of(Video video, const WindowExtents& extents);

/// Moving textured shapes in front of a moving ground.
std::unique_ptr<WindowSource> drawn_windows();

/// Mirrors and transposes a window, reorders its colours and changes its contrast a little: what restoring must not
/// depend on.
void augment(Random& random, const WindowExtents& extents, std::span<std::uint8_t> window);

}  // namespace kineograph::video

// The windows of frames that FreeNoise's attentions run in, and the average of what they give.
#pragma once

#include <cstdint>
#include <vector>

#include "kineograph/context.h"
#include "kineograph/tensor.h"

namespace kineograph::engine {

/// Frames [first, first + length) of a clip.
struct ContextWindow {
  std::int64_t first = 0;
  std::int64_t fresh = 0;    ///< the window's frames from this one on are in none before it
  std::int64_t counted = 0;  ///< the window's frames from this one on enter the average
};

/// diffusers' FreeNoiseTransformerBlock: a window every `stride` frames. Where the last of them ends before the clip
/// does, one more is flush with the end, of which only the new frames are counted. None for a clip of one window, whose
/// average is the window itself.
struct ContextWindows {
  std::int64_t length = 0;
  std::vector<ContextWindow> windows;
  /// (windows, length): the factor of a window's frame in its average; 0 for frames that are not counted. Factors of a
  /// frame sum to 1, but for those of the flush window: diffusers divides all of them by the weight of the first, so
  /// with a weighting other than flat its later frames become smaller.
  std::vector<double> shares;

  bool empty() const noexcept { return windows.empty(); }
  /// Frames that an attention sees at once, of a clip of `frames`.
  std::int64_t attended_frames(std::int64_t frames) const noexcept { return empty() ? frames : length; }
  double share(std::size_t window, std::int64_t frame) const {
    return shares[window * static_cast<std::size_t>(length) + static_cast<std::size_t>(frame)];
  }
};

/// Weights of a window's frames, rounded to `dtype` (of a model's weights) as diffusers rounds them. An odd length of
/// delayed_reverse_sawtooth, for which diffusers' own list is one too long, is what its documentation shows: 0.01,
/// 0.01, 3, 2, 1 for five.
std::vector<double> frame_weights(std::int64_t length, ContextWeighting weighting, DType dtype);

/// The windows of a clip of `frames`, at least `length`; 0 < stride <= length.
ContextWindows context_windows(const ContextOptions& context, std::int64_t frames, DType dtype);

}  // namespace kineograph::engine

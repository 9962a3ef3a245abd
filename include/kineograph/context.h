// FreeNoise: attention in windows of frames.
#pragma once

#include <cstdint>
#include <string_view>

#include "kineograph/export.h"

namespace kineograph {

/// Weights of a window's frames in the average of windows that overlap, as diffusers' FreeNoise names them.
enum class ContextWeighting {
  flat,                      ///< 1 for every frame
  pyramid,                   ///< 1, 2, 3, 2, 1
  delayed_reverse_sawtooth,  ///< 0.01, 0.01, 3, 2, 1
};
KINEOGRAPH_API std::string_view name_of(ContextWeighting value) noexcept;
/// By its name; throws ArgumentError, which is about `where`.
KINEOGRAPH_API ContextWeighting context_weighting(std::string_view name, std::string_view where = "context.weighting");

/// FreeNoise, for clips longer than those a model was trained with: in each block the attentions run in windows of
/// `length` frames, every `stride` frames and once more flush with the end, each with positions of its own; frames in
/// several windows are averaged. GroupNorm and feed-forward see all frames. The numbers are those of diffusers'
/// FreeNoiseTransformerBlock.
struct ContextOptions {
  std::int64_t length = 16;                                ///< frames of a window, at most num_frames
  std::int64_t stride = 4;                                 ///< 1 to length
  ContextWeighting weighting = ContextWeighting::pyramid;  ///< rounded to the dtype of the model's weights
};

}  // namespace kineograph

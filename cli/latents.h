// Video frames as latents: RGB in -1..1, p x p pixels folded into channels.
#pragma once

#include <cstdint>
#include <span>

#include "y4m.h"

namespace kineograph::cli {

/// Extents of one frame's latents (C, H, W) = (3 p^2, ceil(height / p), ceil(width / p)).
struct LatentExtents {
  std::int64_t channels, height, width;
};
LatentExtents latent_extents(const Y4mHeader& header, std::int64_t patch);

/// One frame's planes to latents (C, H, W). YUV becomes RGB by BT.601; -1 is black and 1 is full. Colours that YUV can
/// say and RGB cannot lie beyond -1..1 and are kept, so that latents_to_frame inverts this exactly. Channel
/// (c p + y) p + x is colour c of pixel (y, x) of a patch, as PyTorch's pixel_unshuffle has it. Chroma is repeated over
/// the pixels it covers. Past the right and lower edges the last pixel is repeated.
void frame_to_latents(std::span<const std::uint8_t> frame, const Y4mHeader& header, std::int64_t patch, float* latents);

/// The inverse: chroma is the mean over the pixels it covers, values are rounded to nearest and clamped to 0..255, NaN
/// becomes 0, and what was repeated past the edges is dropped.
void latents_to_frame(const float* latents, const Y4mHeader& header, std::int64_t patch, std::span<std::uint8_t> frame);

}  // namespace kineograph::cli

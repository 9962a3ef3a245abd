// Video frames as latents: RGB in -1..1, p x p pixels folded into channels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "video/y4m.h"

namespace kineograph::video {

/// Extents of one frame's latents (C, H, W) = (3 p^2, ceil(height / p), ceil(width / p)).
struct LatentExtents {
  std::int64_t channels, height, width;
};
LatentExtents latent_extents(const Y4mHeader& header, std::int64_t patch);

/// One frame's planes to colours: planes red, green and blue (3, height, width) in -1..1, black to full. YUV becomes
/// RGB by BT.601, and chroma is repeated over the pixels it covers. Colours that YUV can say and RGB cannot lie beyond
/// -1..1 and are kept, so that rgb_to_frame inverts this exactly.
void frame_to_rgb(std::span<const std::uint8_t> frame, const Y4mHeader& header, float* rgb);

/// The inverse: chroma is the mean over the pixels it covers, values are rounded to nearest and clamped to a sample's
/// bits, NaN becomes 0.
void rgb_to_frame(const float* rgb, const Y4mHeader& header, std::span<std::uint8_t> frame);

/// The pixel that is shown at `place` of a line of `size` pixels which is mirrored at both ends, and again beyond.
std::int64_t mirrored(std::int64_t place, std::int64_t size);

/// Pixels under a grid of patches: row y of the grid shows row rows[y] of the frame, column x column
/// columns[x]. Both have a multiple of `patch` entries.
struct PatchGrid {
  std::int64_t patch;
  std::vector<std::int64_t> rows, columns;
  std::int64_t height() const { return static_cast<std::int64_t>(rows.size()) / patch; }
  std::int64_t width() const { return static_cast<std::int64_t>(columns.size()) / patch; }
};

/// Colours (3, height, width) to the latents (3 patch^2, grid.height(), grid.width()) of scale * colour + shift.
/// Channel (c patch + y) patch + x is colour c of pixel (y, x) of a patch, as PyTorch's pixel_unshuffle has it.
void fold(const float* rgb, std::int64_t height, std::int64_t width, const PatchGrid& grid, float scale, float shift,
          float* latents);

/// One frame's planes to latents (C, H, W), folded from its upper left corner. Past the right and lower edges the last
/// pixel is repeated.
void frame_to_latents(std::span<const std::uint8_t> frame, const Y4mHeader& header, std::int64_t patch, float* latents);

/// The inverse, as rgb_to_frame; what was repeated past the edges is dropped.
void latents_to_frame(const float* latents, const Y4mHeader& header, std::int64_t patch, std::span<std::uint8_t> frame);

}  // namespace kineograph::video

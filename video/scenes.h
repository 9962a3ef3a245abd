// Cuts: places where one scene of a video ends and the next begins.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "video/y4m.h"

namespace kineograph::video {

/// Thumbnail of a frame: a plane's means over cells of 8 x 8 pixels, less their mean.
struct Thumbnail {
  std::vector<float> cells;
  double deviation = 0;  ///< of the cells, in levels of 0..255
};

/// Of a plane (height, width) of 8-bit levels: luma, or green. Rows and columns that fill no cell are left out.
Thumbnail thumbnail_of(std::span<const std::uint8_t> plane, std::int64_t height, std::int64_t width);
/// Of a frame's luma, of any number of bits.
Thumbnail thumbnail_of(std::span<const std::uint8_t> frame, const Y4mHeader& header);

/// Whether two neighbouring frames are of different scenes: their thumbnails do not correlate. Gain, offset and noise
/// change that little, and a fast pan keeps 0.5. Frames too small or too flat to tell are taken for one scene.
bool is_cut(const Thumbnail& before, const Thumbnail& after);

/// How far the cells of `after` are from any gain and offset of those of `before`: a deviation, in levels of 0..255.
double unexplained(const Thumbnail& before, const Thumbnail& after);

}  // namespace kineograph::video

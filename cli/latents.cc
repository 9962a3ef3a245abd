#include "latents.h"

#include <algorithm>

namespace kineograph::cli {
namespace {

// BT.601's luma weights.
constexpr float kRed = 0.299f, kBlue = 0.114f, kGreen = 1.0f - kRed - kBlue;

// Y = luma_offset + luma_scale * y for y in 0..1; Cb, Cr = 128 + chroma_scale * c for c in -0.5..0.5.
struct Range {
  float luma_offset, luma_scale, chroma_scale;
};
constexpr Range range_of(const Y4mHeader& header) {
  return header.full_range ? Range{0, 255, 255} : Range{16, 219, 224};
}

// Pixels across and down that share one chroma sample.
struct Subsampling {
  std::int64_t x, y;
};
Subsampling subsampling_of(Chroma chroma) {
  return {chroma == Chroma::c420 || chroma == Chroma::c422 ? 2 : 1, chroma == Chroma::c420 ? 2 : 1};
}

// Where pixel (y, x)'s red lies in the latents, and how far apart its colours are.
struct Folding {
  std::int64_t patch, height, width;
  std::int64_t offset(std::int64_t y, std::int64_t x) const {
    return ((y % patch * patch + x % patch) * height + y / patch) * width + x / patch;
  }
  std::int64_t colour_stride() const { return patch * patch * height * width; }
};

std::uint8_t to_byte(float value) {
  if (!(value > 0)) return 0;  // and NaN
  return value >= 254.5f ? 255 : static_cast<std::uint8_t>(value + 0.5f);
}

}  // namespace

LatentExtents latent_extents(const Y4mHeader& header, std::int64_t patch) {
  return {3 * patch * patch, (header.height + patch - 1) / patch, (header.width + patch - 1) / patch};
}

void frame_to_latents(std::span<const std::uint8_t> frame, const Y4mHeader& header, std::int64_t patch,
                      float* latents) {
  const LatentExtents extents = latent_extents(header, patch);
  const Folding folding{patch, extents.height, extents.width};
  const Range range = range_of(header);
  const Subsampling sub = subsampling_of(header.chroma);
  const std::uint8_t* luma = frame.data();
  const std::uint8_t* cb_plane = luma + header.width * header.height;
  const std::uint8_t* cr_plane = cb_plane + header.chroma_width() * header.chroma_height();
  for (std::int64_t row = 0; row < extents.height * patch; ++row) {
    const std::int64_t y = std::min(row, header.height - 1);
    for (std::int64_t column = 0; column < extents.width * patch; ++column) {
      const std::int64_t x = std::min(column, header.width - 1);
      const float light = (luma[y * header.width + x] - range.luma_offset) / range.luma_scale;
      float red = light, green = light, blue = light;
      if (header.chroma != Chroma::mono) {
        const std::int64_t at = y / sub.y * header.chroma_width() + x / sub.x;
        const float cb = (cb_plane[at] - 128.0f) / range.chroma_scale,
                    cr = (cr_plane[at] - 128.0f) / range.chroma_scale;
        red = light + 2 * (1 - kRed) * cr;
        blue = light + 2 * (1 - kBlue) * cb;
        green = (light - kRed * red - kBlue * blue) / kGreen;
      }
      float* pixel = latents + folding.offset(row, column);
      pixel[0] = 2 * red - 1;
      pixel[folding.colour_stride()] = 2 * green - 1;
      pixel[2 * folding.colour_stride()] = 2 * blue - 1;
    }
  }
}

void latents_to_frame(const float* latents, const Y4mHeader& header, std::int64_t patch,
                      std::span<std::uint8_t> frame) {
  const LatentExtents extents = latent_extents(header, patch);
  const Folding folding{patch, extents.height, extents.width};
  const Range range = range_of(header);
  const Subsampling sub = subsampling_of(header.chroma);
  struct Yuv {
    float y, cb, cr;
  };
  const auto yuv_at = [&](std::int64_t y, std::int64_t x) -> Yuv {
    const float* pixel = latents + folding.offset(y, x);
    const float red = (pixel[0] + 1) / 2, green = (pixel[folding.colour_stride()] + 1) / 2,
                blue = (pixel[2 * folding.colour_stride()] + 1) / 2;
    const float light = kRed * red + kGreen * green + kBlue * blue;
    return {light, (blue - light) / (2 * (1 - kBlue)), (red - light) / (2 * (1 - kRed))};
  };

  std::uint8_t* luma = frame.data();
  for (std::int64_t y = 0; y < header.height; ++y)
    for (std::int64_t x = 0; x < header.width; ++x)
      *luma++ = to_byte(range.luma_offset + range.luma_scale * yuv_at(y, x).y);

  std::uint8_t* cb_plane = luma;
  std::uint8_t* cr_plane = cb_plane + header.chroma_width() * header.chroma_height();
  for (std::int64_t row = 0; row < header.chroma_height(); ++row) {
    const std::int64_t last_y = std::min((row + 1) * sub.y, header.height);
    for (std::int64_t column = 0; column < header.chroma_width(); ++column) {
      const std::int64_t last_x = std::min((column + 1) * sub.x, header.width);
      float cb = 0, cr = 0;
      int pixels = 0;
      for (std::int64_t y = row * sub.y; y < last_y; ++y)
        for (std::int64_t x = column * sub.x; x < last_x; ++x, ++pixels) {
          const Yuv value = yuv_at(y, x);
          cb += value.cb;
          cr += value.cr;
        }
      *cb_plane++ = to_byte(128 + range.chroma_scale * cb / static_cast<float>(pixels));
      *cr_plane++ = to_byte(128 + range.chroma_scale * cr / static_cast<float>(pixels));
    }
  }
}

}  // namespace kineograph::cli

#include "video/latents.h"

#include <algorithm>

namespace kineograph::video {
namespace {

// BT.601's luma weights.
constexpr float kRed = 0.299f, kBlue = 0.114f, kGreen = 1.0f - kRed - kBlue;

// Y = luma_offset + luma_scale * y for y in 0..1; Cb, Cr = chroma_offset + chroma_scale * c for c in -0.5..0.5.
struct Range {
  float luma_offset, luma_scale, chroma_offset, chroma_scale;
};
Range range_of(const Y4mHeader& header) {
  const auto levels = static_cast<float>(1 << (header.bits - 8)), most = 256 * levels - 1;
  return header.full_range ? Range{0, most, 128 * levels, most}
                           : Range{16 * levels, 219 * levels, 128 * levels, 224 * levels};
}

// A frame's samples, of one byte or two.
class Samples {
 public:
  Samples(const std::uint8_t* bytes, const Y4mHeader& header) : bytes_(bytes), wide_(header.bits > 8) {}
  float operator[](std::int64_t i) const {
    return wide_ ? static_cast<float>(bytes_[2 * i] | bytes_[2 * i + 1] << 8) : static_cast<float>(bytes_[i]);
  }

 private:
  const std::uint8_t* bytes_;
  bool wide_;
};

class SampleWriter {
 public:
  SampleWriter(std::uint8_t* bytes, const Y4mHeader& header)
      : bytes_(bytes), most_(static_cast<float>((1 << header.bits) - 1)), wide_(header.bits > 8) {}
  void put(float value) {
    // In this order NaN becomes 0.
    const auto sample = static_cast<int>(value > 0 ? std::min(value, most_) + 0.5f : 0.0f);
    *bytes_++ = static_cast<std::uint8_t>(sample);
    if (wide_) *bytes_++ = static_cast<std::uint8_t>(sample >> 8);
  }

 private:
  std::uint8_t* bytes_;
  float most_;
  bool wide_;
};

// Pixels across and down that share one chroma sample.
struct Subsampling {
  std::int64_t x, y;
};
Subsampling subsampling_of(Chroma chroma) {
  return {chroma == Chroma::c420 || chroma == Chroma::c422 ? 2 : 1, chroma == Chroma::c420 ? 2 : 1};
}

}  // namespace

LatentExtents latent_extents(const Y4mHeader& header, std::int64_t patch) {
  return {3 * patch * patch, (header.height + patch - 1) / patch, (header.width + patch - 1) / patch};
}

void frame_to_rgb(std::span<const std::uint8_t> frame, const Y4mHeader& header, float* rgb) {
  const Range range = range_of(header);
  const Subsampling sub = subsampling_of(header.chroma);
  const Samples samples(frame.data(), header);
  const std::int64_t pixels = header.width * header.height;
  const std::int64_t cb_plane = pixels, cr_plane = cb_plane + header.chroma_width() * header.chroma_height();
  for (std::int64_t y = 0; y < header.height; ++y)
    for (std::int64_t x = 0; x < header.width; ++x) {
      const float light = (samples[y * header.width + x] - range.luma_offset) / range.luma_scale;
      float red = light, green = light, blue = light;
      if (header.chroma != Chroma::mono) {
        const std::int64_t at = y / sub.y * header.chroma_width() + x / sub.x;
        const float cb = (samples[cb_plane + at] - range.chroma_offset) / range.chroma_scale,
                    cr = (samples[cr_plane + at] - range.chroma_offset) / range.chroma_scale;
        red = light + 2 * (1 - kRed) * cr;
        blue = light + 2 * (1 - kBlue) * cb;
        green = (light - kRed * red - kBlue * blue) / kGreen;
      }
      float* pixel = rgb + y * header.width + x;
      pixel[0] = 2 * red - 1;
      pixel[pixels] = 2 * green - 1;
      pixel[2 * pixels] = 2 * blue - 1;
    }
}

void rgb_to_frame(const float* rgb, const Y4mHeader& header, std::span<std::uint8_t> frame) {
  const Range range = range_of(header);
  const Subsampling sub = subsampling_of(header.chroma);
  const std::int64_t plane = header.width * header.height;
  struct Yuv {
    float y, cb, cr;
  };
  const auto yuv_at = [&](std::int64_t y, std::int64_t x) -> Yuv {
    const float* pixel = rgb + y * header.width + x;
    const float red = (pixel[0] + 1) / 2, green = (pixel[plane] + 1) / 2, blue = (pixel[2 * plane] + 1) / 2;
    const float light = kRed * red + kGreen * green + kBlue * blue;
    return {light, (blue - light) / (2 * (1 - kBlue)), (red - light) / (2 * (1 - kRed))};
  };

  SampleWriter luma(frame.data(), header);
  for (std::int64_t y = 0; y < header.height; ++y)
    for (std::int64_t x = 0; x < header.width; ++x) luma.put(range.luma_offset + range.luma_scale * yuv_at(y, x).y);

  const std::int64_t chroma_bytes = header.sample_bytes() * header.chroma_width() * header.chroma_height();
  SampleWriter cb_plane(frame.data() + header.sample_bytes() * plane, header);
  SampleWriter cr_plane(frame.data() + header.sample_bytes() * plane + chroma_bytes, header);
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
      cb_plane.put(range.chroma_offset + range.chroma_scale * cb / static_cast<float>(pixels));
      cr_plane.put(range.chroma_offset + range.chroma_scale * cr / static_cast<float>(pixels));
    }
  }
}

void fold(const float* rgb, std::int64_t height, std::int64_t width, const PatchGrid& grid, float scale, float shift,
          float* latents) {
  const std::int64_t patch = grid.patch, down = grid.height(), across = grid.width();
  for (std::int64_t channel = 0; channel < 3 * patch * patch; ++channel) {
    const float* colour = rgb + channel / (patch * patch) * height * width;
    const std::int64_t in_y = channel / patch % patch, in_x = channel % patch;
    for (std::int64_t y = 0; y < down; ++y) {
      const float* from = colour + grid.rows[static_cast<std::size_t>(y * patch + in_y)] * width;
      const std::int64_t* column = grid.columns.data() + in_x;
      for (std::int64_t x = 0; x < across; ++x) *latents++ = from[column[x * patch]] * scale + shift;
    }
  }
}

std::int64_t mirrored(std::int64_t place, std::int64_t size) {
  const std::int64_t period = 2 * size;
  place = ((place % period) + period) % period;
  return std::min(place, period - 1 - place);
}

void frame_to_latents(std::span<const std::uint8_t> frame, const Y4mHeader& header, std::int64_t patch,
                      float* latents) {
  std::vector<float> rgb(static_cast<std::size_t>(3 * header.width * header.height));
  frame_to_rgb(frame, header, rgb.data());
  const LatentExtents extents = latent_extents(header, patch);
  PatchGrid grid{patch, {}, {}};
  for (std::int64_t y = 0; y < extents.height * patch; ++y) grid.rows.push_back(std::min(y, header.height - 1));
  for (std::int64_t x = 0; x < extents.width * patch; ++x) grid.columns.push_back(std::min(x, header.width - 1));
  fold(rgb.data(), header.height, header.width, grid, 1, 0, latents);
}

void latents_to_frame(const float* latents, const Y4mHeader& header, std::int64_t patch,
                      std::span<std::uint8_t> frame) {
  const LatentExtents extents = latent_extents(header, patch);
  std::vector<float> rgb(static_cast<std::size_t>(3 * header.width * header.height));
  float* pixel = rgb.data();
  for (std::int64_t colour = 0; colour < 3; ++colour)
    for (std::int64_t y = 0; y < header.height; ++y)
      for (std::int64_t x = 0; x < header.width; ++x) {
        const std::int64_t channel = (colour * patch + y % patch) * patch + x % patch;
        *pixel++ = latents[(channel * extents.height + y / patch) * extents.width + x / patch];
      }
  rgb_to_frame(rgb.data(), header, frame);
}

}  // namespace kineograph::video

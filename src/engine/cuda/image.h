// Pixels in and out: an image is channels of pixels, tokens are rows of channels, so 32 x 32 of them are turned in
// shared memory and both sides are read and written along their rows.
#pragma once

#include "engine/cuda/arguments.h"
#include "engine/cuda/instructions.h"

namespace kineograph::engine::cuda {

constexpr int kImageThreads = 256;
constexpr int kImagePitch = 33;  ///< one more than 32: no two lanes in one bank either way
constexpr std::size_t kImageShared = sizeof(float) * 32 * kImagePitch;

/// Blocks of a slab: a frame, 32 pixels, 32 channels each.
inline std::int64_t image_blocks(const Slab& slab, int channels) {
  return static_cast<std::int64_t>(slab.frames) * ((slab.pixels + 31) / 32) * ((channels + 31) / 32);
}

/// The square of one block.
class ImageTile {
 public:
  KINEOGRAPH_DEVICE ImageTile(const Slab& slab, int channels_in) : slab_(slab), channels(channels_in) {
    const int across = (channels + 31) / 32, along = (slab.pixels + 31) / 32;
    first_channel = static_cast<int>(block_x() % across) * 32;
    first_pixel = static_cast<int>(block_x() / across % along) * 32;
    frame = static_cast<int>(block_x() / across / along);
  }
  /// visit(channel of the tile, pixel of the tile, row of the image, offset in the image), a lane a pixel.
  template <class Visit>
  KINEOGRAPH_DEVICE void each_pixel(const Visit& visit) const {
    const int pixel = first_pixel + thread_x() % 32;
    if (pixel >= slab_.pixels) return;
    const std::int64_t global = slab_.first + pixel, row = global / slab_.image_pixels * slab_.frames + frame;
    for (int c = thread_x() / 32; c < 32 && first_channel + c < channels; c += kImageThreads / 32)
      visit(c, thread_x() % 32, row,
            (row * channels + first_channel + c) * slab_.image_pixels + global % slab_.image_pixels);
  }
  /// visit(channel of the tile, pixel of the tile, offset among the tokens) for pairs of channels, a lane a pair.
  template <class Visit>
  KINEOGRAPH_DEVICE void each_token(const Visit& visit) const {
    const int c = thread_x() % 16 * 2;
    if (first_channel + c >= channels) return;
    for (int i = thread_x() / 16; i < 32 && first_pixel + i < slab_.pixels; i += kImageThreads / 16) {
      const std::int64_t token = static_cast<std::int64_t>(frame) * slab_.pixels + first_pixel + i;
      visit(c, i, token * channels + first_channel + c);
    }
  }

  int first_channel, first_pixel, frame;

 private:
  const Slab& slab_;
  const int channels;
};

template <class In, class T>
KINEOGRAPH_KERNEL(kImageThreads)
gather_kernel(const GatherArguments p) {
  KINEOGRAPH_SHARED(memory);
  float* const square = reinterpret_cast<float*>(memory);  // (channel, pixel)
  const ImageTile tile(p.slab, p.channels);
  tile.each_pixel([&](int c, int i, std::int64_t row, std::int64_t at) {
    const int channel = tile.first_channel + c;
    const std::int64_t set = p.per_frame ? row : row / p.slab.frames;
    const GroupStatistics s = p.statistics[set * p.groups + channel / (p.channels / p.groups)];
    const float v = widen(static_cast<const In*>(p.image)[at]);
    square[c * kImagePitch + i] = ((v - s.mean) - s.mean_low) * s.scale * p.gamma[channel] + p.beta[channel];
  });
  block_sync();
  tile.each_token([&](int c, int i, std::int64_t at) {
    write_pair(static_cast<T*>(p.tokens) + at, Pair{square[c * kImagePitch + i], square[(c + 1) * kImagePitch + i]});
  });
}

template <class In>
KINEOGRAPH_KERNEL(kImageThreads)
scatter_kernel(const ScatterArguments p) {
  KINEOGRAPH_SHARED(memory);
  float* const square = reinterpret_cast<float*>(memory);  // (channel, pixel)
  const ImageTile tile(p.slab, p.channels);
  tile.each_token([&](int c, int i, std::int64_t at) {
    const Pair v = read_pair(p.tokens + at);
    square[c * kImagePitch + i] = v.low;
    square[(c + 1) * kImagePitch + i] = v.high;
  });
  block_sync();
  tile.each_pixel([&](int c, int i, std::int64_t, std::int64_t at) {
    In& pixel = static_cast<In*>(p.image)[at];
    pixel = narrow<In>(widen(pixel) + square[c * kImagePitch + i]);
  });
}

}  // namespace kineograph::engine::cuda

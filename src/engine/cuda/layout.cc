#include "engine/cuda/layout.h"

#include <algorithm>

#include "engine/cuda/launch.h"

namespace kineograph::engine::cuda {
namespace {

constexpr std::size_t kAlignment = 256, kHalf = 2;

std::size_t product(std::int64_t a, std::int64_t b, std::size_t bytes) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * bytes;
}

/// Of a token in Layout::wide.
std::size_t wide_bytes(const Extents& e) {
  const auto inner = static_cast<std::size_t>(e.inner), channels = static_cast<std::size_t>(e.channels);
  return std::max({3 * inner * kHalf, static_cast<std::size_t>(e.hidden) * kHalf, channels * sizeof(float)});
}

/// Rows of keys that a pixel more brings with it.
std::int64_t keys_of_a_pixel(const Extents& e) {
  return e.keys_per_video ? (e.keys + e.pixels - 1) / e.pixels : e.keys;
}
/// Rows of keys that a slab may need at most: those of a video are needed whole, and a slab touches parts of two more
/// videos than it covers.
std::int64_t most_context_rows(const Extents& e, std::int64_t pixels) {
  if (!e.keys_per_video) return pixels * e.keys;
  return std::min(e.videos, (pixels - 1) / e.pixels + 2) * e.keys;
}

std::size_t take(std::size_t& end, std::size_t bytes) {
  const std::size_t at = end;
  end += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}

Layout lay_out(const Extents& e, std::int64_t pixels) {
  const std::int64_t tokens = pixels * e.frames;
  Layout layout;
  layout.slab_pixels = pixels;
  layout.moments = take(layout.bytes, product(e.rows(), e.groups, sizeof(Moments)));
  layout.statistics = take(layout.bytes, product(e.sets(), e.groups, sizeof(GroupStatistics)));
  layout.stream = take(layout.bytes, product(tokens, e.inner, sizeof(float)));
  layout.normalised = take(layout.bytes, product(tokens, e.inner, kHalf));
  layout.wide = take(layout.bytes, product(tokens, 1, wide_bytes(e)));
  layout.context = take(layout.bytes, product(most_context_rows(e, pixels), 2 * e.inner, kHalf));
  return layout;
}

}  // namespace

Layout make_layout(const Extents& e, std::size_t slab_bytes) {
  const std::int64_t most = std::max<std::int64_t>(1, e.all_pixels());
  const std::size_t fixed = lay_out(e, 1).bytes;
  const std::size_t per_pixel =
      product(e.frames, 1, static_cast<std::size_t>(e.inner) * (sizeof(float) + kHalf) + wide_bytes(e)) +
      product(keys_of_a_pixel(e), 2 * e.inner, kHalf);
  const auto fitting = static_cast<std::int64_t>((slab_bytes - std::min(fixed, slab_bytes)) / per_pixel);
  // Rows of a product: tokens, or keys of as many pixels.
  const std::int64_t rows = kMostRows / std::max(e.frames, keys_of_a_pixel(e)) - 2;
  return lay_out(e, std::clamp<std::int64_t>(std::min(fitting, rows), 1, most));
}

ContextRows context_rows(const Extents& e, std::int64_t first, std::int64_t pixels) {
  if (!e.keys_per_video) return {first * e.keys, pixels * e.keys};
  const std::int64_t video = first / e.pixels, last = (first + pixels - 1) / e.pixels;
  return {video * e.keys, (last - video + 1) * e.keys};
}

}  // namespace kineograph::engine::cuda

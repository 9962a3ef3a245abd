#include "video/latents.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace kineograph::video {
namespace {

Y4mHeader header_of(std::int64_t width, std::int64_t height, Chroma chroma, bool full_range = false) {
  Y4mHeader header;
  header.width = width;
  header.height = height;
  header.chroma = chroma;
  header.full_range = full_range;
  return header;
}

std::vector<float> latents_of(const std::vector<std::uint8_t>& frame, const Y4mHeader& header, std::int64_t patch) {
  const auto [channels, height, width] = latent_extents(header, patch);
  std::vector<float> latents(static_cast<std::size_t>(channels * height * width),
                             std::numeric_limits<float>::quiet_NaN());
  frame_to_latents(frame, header, patch, latents.data());
  return latents;
}

// Every byte of every frame comes back, for all layouts, odd extents and patches that do not divide them.
TEST(Latents, InvertExactly) {
  std::mt19937 random(1);
  for (Chroma chroma : {Chroma::mono, Chroma::c420, Chroma::c422, Chroma::c444})
    for (bool full_range : {false, true})
      for (const auto& [width, height] : {std::pair{16, 16}, {17, 9}, {1, 1}, {7, 24}})
        for (std::int64_t patch : {1, 2, 3, 8}) {
          const Y4mHeader header = header_of(width, height, chroma, full_range);
          std::vector<std::uint8_t> frame(static_cast<std::size_t>(header.frame_bytes())), back(frame.size());
          for (std::uint8_t& byte : frame) byte = static_cast<std::uint8_t>(random());
          const std::vector<float> latents = latents_of(frame, header, patch);
          for (float value : latents) ASSERT_TRUE(std::isfinite(value)) << "a latent was not written";
          latents_to_frame(latents.data(), header, patch, back);
          EXPECT_EQ(back, frame) << width << "x" << height << " patch " << patch;
        }
}

TEST(Latents, BlackIsMinusOneAndWhiteIsOne) {
  const Y4mHeader limited = header_of(2, 1, Chroma::c444);
  const std::vector<float> latents = latents_of({16, 235, 128, 128, 128, 128}, limited, 1);
  for (int colour = 0; colour < 3; ++colour) {
    EXPECT_NEAR(latents[2 * colour], -1, 1e-6);
    EXPECT_NEAR(latents[2 * colour + 1], 1, 1e-6);
  }
  const std::vector<float> full = latents_of({0, 255}, header_of(2, 1, Chroma::mono, true), 1);
  EXPECT_NEAR(full[0], -1, 1e-6);
  EXPECT_NEAR(full[1], 1, 1e-6);
}

// BT.601's red, green and blue at full strength: Y, Cb, Cr as its tables round them.
TEST(Latents, KnowsBt601) {
  const std::uint8_t primaries[3][3] = {{81, 90, 240}, {145, 54, 34}, {41, 240, 110}};
  for (int colour = 0; colour < 3; ++colour) {
    const auto& [y, cb, cr] = primaries[colour];
    const std::vector<float> latents = latents_of({y, cb, cr}, header_of(1, 1, Chroma::c444), 1);
    for (int other = 0; other < 3; ++other) EXPECT_NEAR(latents[other], other == colour ? 1 : -1, 0.02);
  }
}

// Channel (c p + y) p + x, as PyTorch's pixel_unshuffle.
TEST(Latents, FoldsAsPixelUnshuffle) {
  const Y4mHeader header = header_of(4, 4, Chroma::mono, true);
  std::vector<std::uint8_t> frame(16);
  for (int i = 0; i < 16; ++i) frame[i] = static_cast<std::uint8_t>(10 * i);
  const std::vector<float> latents = latents_of(frame, header, 2);
  for (int c = 0; c < 3; ++c)
    for (int y = 0; y < 4; ++y)
      for (int x = 0; x < 4; ++x)
        EXPECT_NEAR(latents[((c * 2 + y % 2) * 2 + x % 2) * 4 + y / 2 * 2 + x / 2], frame[y * 4 + x] / 127.5 - 1, 1e-6);
}

TEST(Latents, RepeatTheLastPixelPastTheEdges) {
  const std::vector<float> latents = latents_of({255}, header_of(1, 1, Chroma::mono, true), 4);
  ASSERT_EQ(latents.size(), 48u);
  for (float value : latents) EXPECT_EQ(value, latents[0]);
}

TEST(Latents, ClampAndSurviveNaN) {
  const Y4mHeader header = header_of(3, 1, Chroma::mono, true);
  std::vector<float> latents(9);
  const float infinity = std::numeric_limits<float>::infinity();
  const float values[] = {-infinity, 7, std::nanf("")};
  for (int i = 0; i < 9; ++i) latents[i] = values[i % 3];
  std::vector<std::uint8_t> frame(3, 77);
  latents_to_frame(latents.data(), header, 1, frame);
  EXPECT_EQ(frame, (std::vector<std::uint8_t>{0, 255, 0}));
}

}  // namespace
}  // namespace kineograph::video

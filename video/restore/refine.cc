#include "video/restore/refine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "video/latents.h"
#include "video/restore/noise.h"

namespace kineograph::video {
namespace {

constexpr std::int64_t kSide = 8, kStep = 4;
constexpr std::size_t kPixels = kSide * kSide;
// Found on four clips at 10, 25 and 50 levels: half or twice as much changes 0.1 dB, up on one and down on another.
constexpr float kRestoredError = 0.6f, kRestoredNoise = 0.2f;

using Block = std::array<float, kPixels>;
// Of one colour.
using Blocks = std::array<Block, kRefined>;

// Light and two differences of colours, orthonormal: white noise stays what it is.
constexpr float kThird = 0.57735027f, kHalf = 0.70710678f, kSixth = 0.40824829f;
constexpr float kOpponent[3][3] = {{kThird, kThird, kThird}, {kHalf, 0, -kHalf}, {kSixth, -2 * kSixth, kSixth}};

// Row k of the DCT of n values, orthonormal.
std::vector<float> transform(std::size_t n) {
  std::vector<float> matrix(n * n);
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t i = 0; i < n; ++i)
      matrix[k * n + i] = static_cast<float>(std::sqrt((k == 0 ? 1.0 : 2.0) / static_cast<double>(n)) *
                                             std::cos(std::numbers::pi * (static_cast<double>(i) + 0.5) *
                                                      static_cast<double>(k) / static_cast<double>(n)));
  return matrix;
}

std::vector<float> transposed(const std::vector<float>& matrix, std::size_t n) {
  std::vector<float> other(n * n);
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t i = 0; i < n; ++i) other[i * n + k] = matrix[k * n + i];
  return other;
}

// matrix block matrix^T, whole rows at a time, which compilers make vectors of.
void in_space(const float* matrix, const float* other, Block& block) {
  Block columns{};
  for (std::int64_t k = 0; k < kSide; ++k)
    for (std::int64_t y = 0; y < kSide; ++y)
      for (std::int64_t x = 0; x < kSide; ++x) columns[k * kSide + x] += matrix[k * kSide + y] * block[y * kSide + x];
  block.fill(0);
  for (std::int64_t k = 0; k < kSide; ++k)
    for (std::int64_t x = 0; x < kSide; ++x)
      for (std::int64_t j = 0; j < kSide; ++j) block[k * kSide + j] += columns[k * kSide + x] * other[x * kSide + j];
}

void in_time(const std::vector<float>& matrix, std::size_t frames, Blocks& blocks) {
  Blocks made{};
  for (std::size_t k = 0; k < frames; ++k)
    for (std::size_t f = 0; f < frames; ++f)
      for (std::size_t i = 0; i < kPixels; ++i) made[k][i] += matrix[k * frames + f] * blocks[f][i];
  blocks = made;
}

std::vector<std::int64_t> starts(std::int64_t size) {
  std::vector<std::int64_t> all;
  const std::int64_t last = std::max<std::int64_t>(0, size - kSide);
  for (std::int64_t start = 0; start < last; start += kStep) all.push_back(start);
  all.push_back(last);
  return all;
}

std::array<float, kPixels> hump() {
  std::array<float, kPixels> weights;
  for (std::int64_t y = 0; y < kSide; ++y)
    for (std::int64_t x = 0; x < kSide; ++x) {
      const auto at = [](std::int64_t i) {
        return std::sin(std::numbers::pi * (static_cast<double>(i) + 0.5) / kSide);
      };
      // Never nothing: corners are in one block alone.
      weights[static_cast<std::size_t>(y * kSide + x)] = static_cast<float>(at(y) * at(y) * at(x) * at(x) + 1e-3);
    }
  return weights;
}

class Refiner {
 public:
  Refiner(std::size_t frames, std::size_t own, std::int64_t height, std::int64_t width)
      : frames_(frames), own_(own), height_(height), width_(width) {}

  // The blocks of all frames at a place, of each colour. Frames smaller than a block are mirrored.
  std::array<Blocks, 3> gather(std::span<const std::vector<float>* const> frames, std::int64_t top,
                               std::int64_t left) const {
    std::array<Blocks, 3> blocks;
    const std::int64_t plane = height_ * width_;
    for (std::size_t f = 0; f < frames_; ++f)
      for (std::int64_t y = 0; y < kSide; ++y)
        for (std::int64_t x = 0; x < kSide; ++x) {
          const float* pixel = frames[f]->data() + mirrored(top + y, height_) * width_ + mirrored(left + x, width_);
          const float red = pixel[0], green = pixel[plane], blue = pixel[2 * plane];
          for (std::size_t c = 0; c < 3; ++c)
            blocks[c][f][static_cast<std::size_t>(y * kSide + x)] =
                kOpponent[c][0] * red + kOpponent[c][1] * green + kOpponent[c][2] * blue;
        }
    return blocks;
  }

  // One colour of a place, with noise of that variance: what becomes of the own frame's block.
  Block refine(Blocks& noisy, Blocks& restored, float variance) const {
    for (Blocks* blocks : {&noisy, &restored}) {
      for (std::size_t f = 0; f < frames_; ++f) in_space(space_.data(), back_.data(), (*blocks)[f]);
      in_time(time_, frames_, *blocks);
    }
    // The restored mean stays: its coefficient is taken for noiseless and right.
    const float mean = restored[0][0];
    noisy[0][0] = mean;
    Block block{};
    for (std::size_t k = 0; k < frames_; ++k) {
      const float weight = time_[k * frames_ + own_];
      for (std::size_t i = 0; i < kPixels; ++i) {
        const float p = restored[k][i], power = p * p;
        const float share = kRestoredError * power / (kRestoredError * power + variance);
        const float kept = power / (power + kRestoredNoise * variance);
        block[i] += weight * kept * (p + share * (noisy[k][i] - p));
      }
    }
    block[0] += time_[own_] * mean * kRestoredNoise * variance / (mean * mean + kRestoredNoise * variance);
    in_space(back_.data(), space_.data(), block);
    return block;
  }

 private:
  std::size_t frames_, own_;
  std::int64_t height_, width_;
  std::vector<float> space_ = transform(kSide), back_ = transposed(space_, kSide), time_ = transform(frames_);
};

// The variance of each of the three opponent colours: together that of white noise of deviation `sigma`, shared out as
// the frame shows it. Noise may be alike in red, green and blue, and is so in a video without colours.
std::array<float, 3> variances(const std::vector<float>& frame, const std::vector<float>* before, double sigma,
                               std::int64_t height, std::int64_t width) {
  const auto plane = static_cast<std::size_t>(height * width);
  const auto opponent = [plane](const std::vector<float>& rgb, std::size_t colour) {
    std::vector<float> values(plane);
    for (std::size_t i = 0; i < plane; ++i)
      values[i] = kOpponent[colour][0] * rgb[i] + kOpponent[colour][1] * rgb[plane + i] +
                  kOpponent[colour][2] * rgb[2 * plane + i];
    return values;
  };
  std::array<double, 3> found;
  double sum = 0;
  for (std::size_t c = 0; c < 3; ++c) {
    const double deviation =
        noise_deviation(opponent(frame, c), before ? opponent(*before, c) : std::vector<float>(), height, width);
    sum += found[c] = deviation * deviation;
  }
  std::array<float, 3> shared;
  for (std::size_t c = 0; c < 3; ++c)
    // Never 0: a division by it would follow.
    shared[c] = static_cast<float>(sigma * sigma * (sum > 0 ? std::max(3 * found[c] / sum, 1e-4) : 1.0));
  return shared;
}

}  // namespace

std::vector<float> refined(std::span<const std::vector<float>* const> noisy,
                           std::span<const std::vector<float>* const> restored, std::size_t own, double sigma,
                           std::int64_t height, std::int64_t width) {
  static const std::array<float, kPixels> weights = hump();
  const Refiner refiner(noisy.size(), own, height, width);
  const std::array<float, 3> variance =
      variances(*noisy[own], own > 0 ? noisy[own - 1] : nullptr, sigma, height, width);
  const auto plane = static_cast<std::size_t>(height * width);
  std::vector<float> sums(3 * plane), total(plane);
  for (const std::int64_t top : starts(height))
    for (const std::int64_t left : starts(width)) {
      std::array<Blocks, 3> noisy_blocks = refiner.gather(noisy, top, left),
                            restored_blocks = refiner.gather(restored, top, left);
      std::array<Block, 3> made;
      for (std::size_t c = 0; c < 3; ++c) made[c] = refiner.refine(noisy_blocks[c], restored_blocks[c], variance[c]);
      for (std::int64_t y = 0; y < std::min(kSide, height - top); ++y)
        for (std::int64_t x = 0; x < std::min(kSide, width - left); ++x) {
          const auto i = static_cast<std::size_t>(y * kSide + x),
                     at = static_cast<std::size_t>((top + y) * width + left + x);
          total[at] += weights[i];
          for (std::size_t c = 0; c < 3; ++c)
            sums[c * plane + at] += weights[i] * (kOpponent[0][c] * made[0][i] + kOpponent[1][c] * made[1][i] +
                                                  kOpponent[2][c] * made[2][i]);
        }
    }
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < plane; ++i) sums[c * plane + i] /= total[i];
  return sums;
}

}  // namespace kineograph::video

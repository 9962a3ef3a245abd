#include "video/restore/noise.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "video/restore/robust.h"

namespace kineograph::video {
namespace {

// Blocks that are looked at in a frame: their median then varies by less than 1 %.
constexpr std::int64_t kBlocks = 60000;
// The deviation of normal values with some larger ones among them. The median starts it; the values within 1.5
// deviations, of which a normal distribution has 0.5515 of its variance, refine it: 8-bit pixels give the differences a
// coarse grid, on which a median jumps and a mean of squares does not.
double robust_deviation(const std::vector<float>& differences) {
  std::vector<double> magnitudes(differences.size());
  std::transform(differences.begin(), differences.end(), magnitudes.begin(), [](float x) { return std::abs(x); });
  double deviation = median(magnitudes) / kMedianOfNormal;
  for (int i = 0; i < 4; ++i) {
    double squares = 0, count = 0;
    for (const double x : magnitudes)
      if (x <= 1.5 * deviation) {
        squares += x * x;
        ++count;
      }
    if (count == 0) break;
    deviation = std::sqrt(squares / count / 0.5515);
  }
  return deviation;
}

struct Block {
  float difference, mean;
};

// (a - b - c + d) / 2 has the deviation of independent a, b, c, d of equal deviations.
Block block_at(const float* p, std::int64_t width) {
  return {(p[0] - p[1] - p[width] + p[width + 1]) / 2, (p[0] + p[1] + p[width] + p[width + 1]) / 4};
}

// The differences of blocks that noise of deviation `sigma` does not push into black or white; all of them where those
// are too few to tell.
std::vector<float> unclipped(const std::vector<Block>& blocks, double sigma) {
  std::vector<float> inside, all;
  for (const Block& block : blocks) {
    all.push_back(block.difference);
    if (std::abs(block.mean) < 1 - 1.5 * sigma) inside.push_back(block.difference);
  }
  return inside.size() * 20 >= all.size() ? inside : all;
}

double deviation_of(const std::vector<Block>& blocks) {
  const double first = robust_deviation(unclipped(blocks, 0));
  return robust_deviation(unclipped(blocks, first));
}

// Tiles of a scale's differences, and how much alike they have to be: white noise gives 0.94, film grain 0.84 to 0.91,
// noise that x264 left 0.71 to 0.86, and pictures that move 0.1 to 0.6.
constexpr std::int64_t kTile = 8, kSmallTile = 4;
constexpr std::size_t kLeastTiles = 12;
constexpr double kUniform = 0.69, kUniformFinest = 0.5;
// A picture of three colours, and its 2 x 2 means.
struct Picture {
  std::vector<float> values;
  std::int64_t height, width;
};

Picture halved(const Picture& picture) {
  Picture half{{}, picture.height / 2, picture.width / 2};
  half.values.reserve(static_cast<std::size_t>(3 * half.height * half.width));
  for (std::int64_t colour = 0; colour < 3; ++colour)
    for (std::int64_t y = 0; y < half.height; ++y) {
      const float* row = picture.values.data() + (colour * picture.height + 2 * y) * picture.width;
      for (std::int64_t x = 0; x < half.width; ++x) half.values.push_back(block_at(row + 2 * x, picture.width).mean);
    }
  return half;
}

struct TileReading {
  double median, low;  // deviations of the median tile and of one that four fifths of them exceed
};

// Of the differences between two pictures' diagonal differences, tile by tile.
std::optional<TileReading> read_tiles(const Picture& here, const Picture& before, std::int64_t tile) {
  const std::int64_t down = here.height / 2 / tile, across = here.width / 2 / tile;
  std::vector<double> tiles(static_cast<std::size_t>(std::max<std::int64_t>(0, down * across)));
  if (tiles.size() < kLeastTiles) return {};
  for (std::int64_t colour = 0; colour < 3; ++colour)
    for (std::int64_t y = 0; y < down * tile; ++y) {
      const std::int64_t row = (colour * here.height + 2 * y) * here.width;
      for (std::int64_t x = 0; x < across * tile; ++x) {
        const double change = block_at(here.values.data() + row + 2 * x, here.width).difference -
                              block_at(before.values.data() + row + 2 * x, here.width).difference;
        tiles[static_cast<std::size_t>(y / tile * across + x / tile)] += change * change;
      }
    }
  // Two frames differ by twice their noise's variance.
  const double count = 2 * 3 * static_cast<double>(tile * tile);
  const auto at = [&](double share) {
    const auto place = tiles.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(tiles.size()));
    std::nth_element(tiles.begin(), place, tiles.end());
    return std::sqrt(*place / count);
  };
  return TileReading{at(0.5), at(0.2)};
}

}  // namespace

double noise_deviation(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                       std::int64_t width) {
  const auto colours = static_cast<std::int64_t>(rgb.size()) / (height * width);
  const std::int64_t down = height / 2, across = width / 2, count = colours * down * across;
  if (count == 0) return 0;
  // An odd step walks through all columns.
  const std::int64_t step = std::max<std::int64_t>(1, count / kBlocks) | 1;
  std::vector<Block> spatial, temporal;
  for (std::int64_t i = 0; i < count; i += step) {
    const std::int64_t colour = i / (down * across), y = i / across % down * 2, x = i % across * 2;
    const std::int64_t at = (colour * height + y) * width + x;
    const Block here = block_at(rgb.data() + at, width);
    spatial.push_back(here);
    if (before.empty()) continue;
    const Block then = block_at(before.data() + at, width);
    temporal.push_back({(here.difference - then.difference) / std::sqrt(2.0f),
                        std::abs(here.mean) > std::abs(then.mean) ? here.mean : then.mean});
  }
  const double by_space = deviation_of(spatial);
  if (before.empty()) return by_space;
  const double by_time = deviation_of(temporal);
  // Frames that are shown twice do not differ at all, noise or not.
  return by_time > by_space / 8 ? std::min(by_space, by_time) : by_space;
}

double NoiseReading::sigma() const {
  const auto& [s1, s2, s3] = scales;
  return std::sqrt(s1 * s1 / 4 + s1 * s2 / 2 + s2 * s2 / 16 + s2 * s3 / 8 + s3 * s3 / 16);
}

double NoiseReading::coarseness() const { return scales[0] > 0 ? scales[2] / scales[0] : 1; }

NoiseReading read_noise(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                        std::int64_t width) {
  NoiseReading reading;
  reading.scales.fill(noise_deviation(rgb, before, height, width));
  if (before.empty() || reading.scales[0] == 0) return reading;
  Picture here{{rgb.begin(), rgb.end()}, height, width}, then{{before.begin(), before.end()}, height, width};
  const auto finest = read_tiles(here, then, kTile);
  if (!finest || finest->median == 0 || finest->low < kUniformFinest * finest->median) return reading;
  for (std::size_t scale = 1; scale < reading.scales.size(); ++scale) {
    here = halved(here);
    then = halved(then);
    const auto tiles = read_tiles(here, then, scale == 1 ? kTile : kSmallTile);
    if (!tiles || tiles->low < kUniform * tiles->median) break;
    const double ratio = tiles->median * static_cast<double>(1 << scale) / finest->median;
    if (ratio < kAlike) break;
    for (std::size_t i = scale; i < reading.scales.size(); ++i) reading.scales[i] = reading.scales[0] * ratio;
  }
  return reading;
}

}  // namespace kineograph::video

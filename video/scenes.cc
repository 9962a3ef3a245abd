#include "video/scenes.h"

#include <algorithm>
#include <cmath>

namespace kineograph::video {
namespace {

constexpr std::int64_t kCell = 8;
// Fewer cells correlate by chance.
constexpr std::size_t kLeastCells = 16;
// In levels: strong noise alone, of deviation 50, gives cells one of 6.
constexpr double kLeastDeviation = 10;
constexpr double kLeastCorrelation = 0.4;

// The mean product of two thumbnails' cells.
double covariance(const Thumbnail& before, const Thumbnail& after) {
  double products = 0;
  for (std::size_t i = 0; i < after.cells.size(); ++i)
    products += static_cast<double>(before.cells[i]) * after.cells[i];
  return products / static_cast<double>(after.cells.size());
}

}  // namespace

Thumbnail thumbnail_of(std::span<const std::uint8_t> plane, std::int64_t height, std::int64_t width) {
  const std::int64_t down = height / kCell, across = width / kCell;
  std::vector<std::int64_t> sums(static_cast<std::size_t>(down * across));
  for (std::int64_t y = 0; y < down * kCell; ++y) {
    const std::uint8_t* row = plane.data() + y * width;
    for (std::int64_t x = 0; x < across * kCell; ++x)
      sums[static_cast<std::size_t>(y / kCell * across + x / kCell)] += row[x];
  }
  Thumbnail thumbnail;
  if (sums.empty()) return thumbnail;
  double mean = 0, squares = 0;
  for (const std::int64_t sum : sums) mean += static_cast<double>(sum) / static_cast<double>(sums.size());
  for (const std::int64_t sum : sums) {
    const double cell = (static_cast<double>(sum) - mean) / (kCell * kCell);
    thumbnail.cells.push_back(static_cast<float>(cell));
    squares += cell * cell;
  }
  thumbnail.deviation = std::sqrt(squares / static_cast<double>(sums.size()));
  return thumbnail;
}

Thumbnail thumbnail_of(std::span<const std::uint8_t> frame, const Y4mHeader& header) {
  if (header.bits == 8) return thumbnail_of(frame, header.height, header.width);  // luma comes first
  std::vector<std::uint8_t> luma(static_cast<std::size_t>(header.width * header.height));
  for (std::size_t i = 0; i < luma.size(); ++i)
    luma[i] = static_cast<std::uint8_t>((frame[2 * i] | frame[2 * i + 1] << 8) >> (header.bits - 8));
  return thumbnail_of(luma, header.height, header.width);
}

bool is_cut(const Thumbnail& before, const Thumbnail& after) {
  const std::size_t count = after.cells.size();
  if (before.cells.size() != count || count < kLeastCells) return false;
  if (std::min(before.deviation, after.deviation) < kLeastDeviation) return false;
  return covariance(before, after) < kLeastCorrelation * before.deviation * after.deviation;
}

double unexplained(const Thumbnail& before, const Thumbnail& after) {
  if (before.cells.size() != after.cells.size() || after.cells.empty() || before.deviation == 0) return 0;
  const double explained = covariance(before, after) / before.deviation;
  return std::sqrt(std::max(0.0, after.deviation * after.deviation - explained * explained));
}

}  // namespace kineograph::video

#include "video/restore/steady.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "video/restore/blur.h"

namespace kineograph::video {
namespace {

struct Spec {
  std::int64_t cell;
  double blur;   // in pixels; 0 for the picture itself
  double agree;  // how far a band may be from another frame's, in deviations of what noise leaves
};
// Found on four clips with noise of 10 to 50 levels: half or twice as much loses 0.05 to 0.2 dB.
constexpr std::array<Spec, 4> kBands{{{4, 5, 2}, {2, 2.5, 1.5}, {2, 1, 1.5}, {1, 0, 2}}};
// Of white noise the mean of a Gaussian of so many pixels leaves 1 / (2 sqrt(pi) kLeft). A restored picture has about
// as much left in each of the bands.
constexpr double kLeft = 5;

// exp(-x), to 4 % of 1, and 0 from 8 on: products, which compilers make vectors of.
float weight_of(float x) {
  float root = std::max(0.0f, 1 - x * 0.125f);
  root *= root;
  root *= root;
  return root * root;
}

std::vector<float> cell_means(const std::vector<float>& rgb, std::int64_t height, std::int64_t width,
                              std::int64_t cell) {
  const std::int64_t rows = (height + cell - 1) / cell, columns = (width + cell - 1) / cell;
  std::vector<float> cells;
  cells.reserve(static_cast<std::size_t>(3 * rows * columns));
  for (std::int64_t colour = 0; colour < 3; ++colour)
    for (std::int64_t y = 0; y < height; y += cell)
      for (std::int64_t x = 0; x < width; x += cell) {
        const std::int64_t bottom = std::min(y + cell, height), right = std::min(x + cell, width);
        float sum = 0;
        for (std::int64_t row = y; row < bottom; ++row)
          for (std::int64_t column = x; column < right; ++column)
            sum += rgb[static_cast<std::size_t>((colour * height + row) * width + column)];
        cells.push_back(sum / static_cast<float>((bottom - y) * (right - x)));
      }
  return cells;
}

}  // namespace

Bands::Bands(const std::vector<float>& rgb, std::int64_t height, std::int64_t width) : height_(height), width_(width) {
  // Low passes first, and then of each what the one before it lacks.
  for (std::size_t i = 0; i < kBands.size(); ++i) {
    const auto& [cell, deviation, agree] = kBands[i];
    Band& band = bands_[i];
    band = {cell, (height + cell - 1) / cell, (width + cell - 1) / cell, {}};
    band.values = cell == 1 ? rgb : cell_means(rgb, height, width, cell);
    if (deviation == 0) continue;
    for (std::int64_t colour = 0; colour < 3; ++colour)
      blur(band.values.data() + colour * band.rows * band.columns, band.rows, band.columns,
           deviation / static_cast<double>(cell));
  }
  for (std::size_t i = kBands.size() - 1; i > 0; --i) {
    Band &band = bands_[i], &below = bands_[i - 1];
    for (float& value : below.values) value = -value;
    add_enlarged(below.values, below.rows, below.columns, below.cell / band.cell, band.rows, band.columns, band.values);
    for (float& value : below.values) value = -value;
  }
}

void Bands::add(const Bands& other, double sigma, std::array<std::vector<float>, 4>& sums,
                std::array<std::vector<float>, 4>& weights) const {
  std::vector<float> below, apart;
  for (std::size_t i = 0; i < kBands.size(); ++i) {
    const Band &own = bands_[i], &theirs = other.bands_[i];
    const double left = kBands[i].agree * sigma / (2 * std::sqrt(std::numbers::pi) * kLeft);
    // A difference of two has twice the variance; its square is the mean over three colours.
    const auto scale = static_cast<float>(1 / (2 * 2 * left * left) / 3);
    const auto plane = static_cast<std::size_t>(own.rows * own.columns);
    const std::int64_t ratio = i == 0 ? 1 : bands_[i - 1].cell / own.cell,
                       columns_below = i == 0 ? 0 : bands_[i - 1].columns;
    apart.assign(plane, 0.0f);
    if (i > 0)
      for (std::int64_t y = 0; y < own.rows; ++y)
        for (std::int64_t x = 0; x < own.columns; ++x)
          apart[static_cast<std::size_t>(y * own.columns + x)] =
              below[static_cast<std::size_t>(y / ratio * columns_below + x / ratio)];
    const float *a = own.values.data(), *b = theirs.values.data();
    float *sum = sums[i].data(), *weight = weights[i].data(), *x = apart.data();
    for (std::size_t p = 0; p < plane; ++p) {
      const float red = b[p] - a[p], green = b[plane + p] - a[plane + p], blue = b[2 * plane + p] - a[2 * plane + p];
      x[p] += scale * (red * red + green * green + blue * blue);
      const float w = weight_of(x[p]);
      weight[p] += w;
      sum[p] += w * red;
      sum[plane + p] += w * green;
      sum[2 * plane + p] += w * blue;
    }
    below.swap(apart);
  }
}

std::vector<float> Bands::steadied(std::span<const Bands* const> around, double sigma) const {
  std::array<std::vector<float>, 4> sums, weights;
  for (std::size_t i = 0; i < kBands.size(); ++i) {
    sums[i].resize(bands_[i].values.size());
    weights[i].resize(bands_[i].values.size() / 3);
  }
  for (const Bands* other : around) add(*other, sigma, sums, weights);
  std::vector<float> picture;
  for (std::size_t i = 0; i < kBands.size(); ++i) {
    const Band& band = bands_[i];
    const std::size_t plane = weights[i].size();
    std::vector<float> values = band.values;
    for (std::size_t colour = 0; colour < 3; ++colour)
      for (std::size_t p = 0; p < plane; ++p) values[colour * plane + p] += sums[i][colour * plane + p] / weights[i][p];
    if (i > 0)
      add_enlarged(picture, bands_[i - 1].rows, bands_[i - 1].columns, bands_[i - 1].cell / band.cell, band.rows,
                   band.columns, values);
    picture = std::move(values);
  }
  return picture;
}

}  // namespace kineograph::video

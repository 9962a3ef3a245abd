#include "video/restore/blur.h"

#include <algorithm>
#include <cmath>

#include "video/latents.h"

namespace kineograph::video {
namespace {

// out[i] = sum over k of weights[|k|] at(k)[i], where at(k) is a line of values: whole lines at a time, which compilers
// make vectors of.
template <typename Line>
void weigh(const std::vector<float>& weights, const Line& at, std::int64_t size, float* out) {
  const float* centre = at(0);
  for (std::int64_t i = 0; i < size; ++i) out[i] = weights[0] * centre[i];
  for (std::size_t k = 1; k < weights.size(); ++k) {
    const float weight = weights[k];
    const auto distance = static_cast<std::int64_t>(k);
    const float *before = at(-distance), *after = at(distance);
    for (std::int64_t i = 0; i < size; ++i) out[i] += weight * (before[i] + after[i]);
  }
}

// Between which two of `count` cells the middle of pixel `place` lies, and how far it is from the first.
struct Between {
  std::int64_t first, second;
  float share;
};
Between between(std::int64_t place, std::int64_t cell, std::int64_t count) {
  const float at = std::clamp((static_cast<float>(place) + 0.5f) / static_cast<float>(cell) - 0.5f, 0.0f,
                              static_cast<float>(count - 1));
  const auto first = static_cast<std::int64_t>(at);
  return {first, std::min(first + 1, count - 1), at - static_cast<float>(first)};
}

}  // namespace

std::vector<float> gaussian(double deviation) {
  std::vector<float> weights;
  double sum = 0;
  for (int i = 0; i <= static_cast<int>(3 * deviation); ++i) {
    const double x = i / deviation, weight = std::exp(-0.5 * x * x);
    weights.push_back(static_cast<float>(weight));
    sum += i == 0 ? weight : 2 * weight;
  }
  for (float& weight : weights) weight = static_cast<float>(weight / sum);
  return weights;
}

void blur(float* plane, std::int64_t height, std::int64_t width, double deviation) {
  const std::vector<float> weights = gaussian(deviation);
  const auto reach = static_cast<std::int64_t>(weights.size()) - 1;
  std::vector<float> rows(static_cast<std::size_t>(height * width)),
      padded(static_cast<std::size_t>(width + 2 * reach));
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = -reach; x < width + reach; ++x)
      padded[static_cast<std::size_t>(x + reach)] = plane[y * width + mirrored(x, width)];
    weigh(
        weights, [&](std::int64_t k) { return padded.data() + reach + k; }, width, rows.data() + y * width);
  }
  for (std::int64_t y = 0; y < height; ++y)
    weigh(
        weights, [&](std::int64_t k) { return rows.data() + mirrored(y + k, height) * width; }, width,
        plane + y * width);
}

void add_enlarged(const std::vector<float>& cells, std::int64_t rows, std::int64_t columns, std::int64_t cell,
                  std::int64_t height, std::int64_t width, std::vector<float>& colours) {
  std::vector<Between> across;
  for (std::int64_t x = 0; x < width; ++x) across.push_back(between(x, cell, columns));
  for (std::int64_t colour = 0; colour < 3; ++colour)
    for (std::int64_t y = 0; y < height; ++y) {
      const Between down = between(y, cell, rows);
      const float *above = cells.data() + (colour * rows + down.first) * columns,
                  *below = cells.data() + (colour * rows + down.second) * columns;
      float* line = colours.data() + (colour * height + y) * width;
      for (std::int64_t x = 0; x < width; ++x) {
        const auto& [first, second, share] = across[static_cast<std::size_t>(x)];
        const float high = above[first] + share * (above[second] - above[first]),
                    low = below[first] + share * (below[second] - below[first]);
        line[x] += high + down.share * (low - high);
      }
    }
}

}  // namespace kineograph::video

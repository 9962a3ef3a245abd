#include "video/restore/low_frequencies.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "video/latents.h"

namespace kineograph::video {
namespace {

// In pixels: the noise that comes back is 1 / (2 sqrt(pi) kBlur), a twentieth, of what there was.
constexpr double kBlur = 5;
constexpr std::int64_t kReach = 15;

std::array<float, kReach + 1> gaussian() {
  std::array<float, kReach + 1> weights;
  double sum = 0;
  for (std::int64_t i = 0; i <= kReach; ++i) {
    const double x = static_cast<double>(i) / kBlur, weight = std::exp(-0.5 * x * x);
    weights[static_cast<std::size_t>(i)] = static_cast<float>(weight);
    sum += i == 0 ? weight : 2 * weight;
  }
  for (float& weight : weights) weight = static_cast<float>(weight / sum);
  return weights;
}

// out[i] = sum over k of weights[|k|] at(k)[i], where at(k) is a line of values: whole lines at a time, which compilers
// make vectors of.
template <typename Line>
void weigh(const Line& at, std::int64_t size, float* out) {
  static const std::array<float, kReach + 1> weights = gaussian();
  const float* centre = at(0);
  for (std::int64_t i = 0; i < size; ++i) out[i] = weights[0] * centre[i];
  for (std::int64_t k = 1; k <= kReach; ++k) {
    const float weight = weights[static_cast<std::size_t>(k)];
    const float *before = at(-k), *after = at(k);
    for (std::int64_t i = 0; i < size; ++i) out[i] += weight * (before[i] + after[i]);
  }
}

// Blurs a plane along its rows, then along its columns, mirrored at the edges.
void blur(std::int64_t height, std::int64_t width, float* plane) {
  std::vector<float> rows(static_cast<std::size_t>(height * width)),
      padded(static_cast<std::size_t>(width + 2 * kReach));
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = -kReach; x < width + kReach; ++x)
      padded[static_cast<std::size_t>(x + kReach)] = plane[y * width + mirrored(x, width)];
    weigh([&](std::int64_t k) { return padded.data() + kReach + k; }, width, rows.data() + y * width);
  }
  for (std::int64_t y = 0; y < height; ++y)
    weigh([&](std::int64_t k) { return rows.data() + mirrored(y + k, height) * width; }, width, plane + y * width);
}

double density(double z) { return std::exp(-0.5 * z * z) / std::sqrt(2 * std::numbers::pi); }
double distribution(double z) { return 0.5 * std::erfc(-z / std::numbers::sqrt2); }

// E[clip(colour + sigma z)] for a standard normal z, from a table: a picture asks for millions.
class ClippedMean {
 public:
  explicit ClippedMean(double sigma) : end_(static_cast<float>(1 + 5 * sigma)) {
    for (std::size_t i = 0; i < kSteps + 1; ++i) {
      const double colour = (2 * static_cast<double>(i) / kSteps - 1) * static_cast<double>(end_);
      const double low = (-1 - colour) / sigma, high = (1 - colour) / sigma;
      const double mean = colour * (distribution(high) - distribution(low)) + sigma * (density(low) - density(high)) +
                          (1 - distribution(high)) - distribution(low);
      table_[i] = static_cast<float>(mean);
    }
    table_[kSteps + 1] = table_[kSteps];
  }

  float operator()(float colour) const {
    // Beyond the table everything is clipped. In this order NaN, which a broken model gives, becomes end_.
    const float place = (std::max(-end_, std::min(end_, colour)) + end_) * (kSteps / (2 * end_));
    const auto i = static_cast<std::size_t>(place);
    return table_[i] + (place - static_cast<float>(i)) * (table_[i + 1] - table_[i]);
  }

 private:
  // Between two places the mean bends by less than 1e-5, a thousandth of a level, from noise of one level on.
  static constexpr std::size_t kSteps = 4096;
  float end_;
  std::array<float, kSteps + 2> table_;
};

}  // namespace

void keep_low_frequencies(const std::vector<float>& noisy, double sigma, std::int64_t height, std::int64_t width,
                          std::vector<float>& restored) {
  if (!(sigma > 0)) return;
  const ClippedMean clipped_mean(sigma);
  std::vector<float> taken(restored.size());
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t i = 0; i < taken.size(); ++i) taken[i] = noisy[i] - clipped_mean(restored[i]);
    for (std::int64_t colour = 0; colour < 3; ++colour) blur(height, width, taken.data() + colour * height * width);
    for (std::size_t i = 0; i < taken.size(); ++i) restored[i] += taken[i];
  }
}

void change_low_frequencies_only(const std::vector<float>& steady, std::int64_t height, std::int64_t width,
                                 std::vector<float>& restored) {
  for (std::size_t i = 0; i < restored.size(); ++i) restored[i] -= steady[i];
  for (std::int64_t colour = 0; colour < 3; ++colour) blur(height, width, restored.data() + colour * height * width);
  for (std::size_t i = 0; i < restored.size(); ++i) restored[i] += steady[i];
}

}  // namespace kineograph::video

#include "low_frequencies.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace kineograph::cli {
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

// out[i] = sum over k of weights[|k|] line[i + k], mirrored at both ends; `stride` apart.
void blur_line(const float* line, std::int64_t size, std::int64_t stride, std::vector<float>& padded, float* out) {
  static const std::array<float, kReach + 1> weights = gaussian();
  padded.resize(static_cast<std::size_t>(size + 2 * kReach));
  for (std::int64_t i = -kReach; i < size + kReach; ++i) {
    const std::int64_t period = 2 * size, place = ((i % period) + period) % period;
    padded[static_cast<std::size_t>(i + kReach)] = line[std::min(place, period - 1 - place) * stride];
  }
  for (std::int64_t i = 0; i < size; ++i) {
    const float* centre = padded.data() + i + kReach;
    float sum = weights[0] * centre[0];
    for (std::int64_t k = 1; k <= kReach; ++k) sum += weights[static_cast<std::size_t>(k)] * (centre[k] + centre[-k]);
    out[i * stride] = sum;
  }
}

void blur(std::int64_t height, std::int64_t width, float* plane) {
  std::vector<float> padded;
  for (std::int64_t y = 0; y < height; ++y) blur_line(plane + y * width, width, 1, padded, plane + y * width);
  for (std::int64_t x = 0; x < width; ++x) blur_line(plane + x, height, width, padded, plane + x);
}

double density(double z) { return std::exp(-0.5 * z * z) / std::sqrt(2 * std::numbers::pi); }
double distribution(double z) { return 0.5 * std::erfc(-z / std::numbers::sqrt2); }

// E[clip(colour + sigma z)] for a standard normal z.
float clipped_mean(double colour, double sigma) {
  const double low = (-1 - colour) / sigma, high = (1 - colour) / sigma;
  // Far from both ends nothing is clipped.
  if (low < -5 && high > 5) return static_cast<float>(colour);
  return static_cast<float>(colour * (distribution(high) - distribution(low)) + sigma * (density(low) - density(high)) +
                            (1 - distribution(high)) - distribution(low));
}

}  // namespace

void keep_low_frequencies(const std::vector<float>& noisy, double sigma, std::int64_t height, std::int64_t width,
                          std::vector<float>& restored) {
  if (!(sigma > 0)) return;
  std::vector<float> taken(restored.size());
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t i = 0; i < taken.size(); ++i)
      taken[i] = noisy[i] - clipped_mean(static_cast<double>(restored[i]), sigma);
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

}  // namespace kineograph::cli

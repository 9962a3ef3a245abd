#include "video/restore/low_frequencies.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "video/restore/blur.h"

namespace kineograph::video {
namespace {

// In pixels: the noise that comes back is 1 / (2 sqrt(pi) kBlur), a twentieth, of what there was.
constexpr double kBlur = 5;

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
    for (std::int64_t colour = 0; colour < 3; ++colour)
      blur(taken.data() + colour * height * width, height, width, kBlur);
    for (std::size_t i = 0; i < taken.size(); ++i) restored[i] += taken[i];
  }
}

void change_low_frequencies_only(const std::vector<float>& steady, std::int64_t height, std::int64_t width,
                                 std::vector<float>& restored) {
  for (std::size_t i = 0; i < restored.size(); ++i) restored[i] -= steady[i];
  for (std::int64_t colour = 0; colour < 3; ++colour)
    blur(restored.data() + colour * height * width, height, width, kBlur);
  for (std::size_t i = 0; i < restored.size(); ++i) restored[i] += steady[i];
}

}  // namespace kineograph::video

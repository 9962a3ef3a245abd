#include "video/restore/give_back.h"

#include <algorithm>
#include <cmath>

#include "video/restore/blur.h"

namespace kineograph::video {
namespace {

constexpr double kPixels = 2, kFrames = 1.5;
// An estimate is off by some percent, and the energy of so few pixels by as much.
constexpr double kTolerance = 1.05;

}  // namespace

std::vector<float> taken_energy(const std::vector<float>& noisy, const std::vector<float>& restored,
                                std::int64_t height, std::int64_t width) {
  const auto plane = static_cast<std::size_t>(height * width);
  std::vector<float> energy(plane);
  for (std::size_t i = 0; i < plane; ++i) {
    const float red = noisy[i] - restored[i], green = noisy[plane + i] - restored[plane + i],
                blue = noisy[2 * plane + i] - restored[2 * plane + i];
    energy[i] = (red * red + green * green + blue * blue) / 3;
  }
  blur(energy.data(), height, width, kPixels);
  return energy;
}

void give_back(const std::vector<float>& noisy, std::span<const std::vector<float>* const> around, double sigma,
               std::vector<float>& restored) {
  static const std::vector<float> weights = gaussian(kFrames);
  const std::size_t plane = restored.size() / 3;
  std::vector<float> energy(plane);
  float sum = 0;
  for (std::size_t k = 0; k < around.size(); ++k) {
    if (around[k] == nullptr) continue;
    const float weight = weights[static_cast<std::size_t>(std::abs(static_cast<std::int64_t>(k) - kEnergyReach))];
    sum += weight;
    for (std::size_t i = 0; i < plane; ++i) energy[i] += weight * (*around[k])[i];
  }
  const auto noise = static_cast<float>(kTolerance * sigma * sigma) * sum;
  for (std::size_t i = 0; i < plane; ++i) {
    // In this order NaN, which a broken model gives, gives the noisy colour back.
    const float share = energy[i] <= noise ? 0 : 1 - noise / energy[i];
    for (std::size_t colour = 0; colour < 3; ++colour) {
      const std::size_t at = colour * plane + i;
      restored[at] = share == share ? restored[at] + share * (noisy[at] - restored[at]) : noisy[at];
    }
  }
}

}  // namespace kineograph::video

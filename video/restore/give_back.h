// First, do no harm: what a denoiser took out beyond the noise goes back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kineograph::video {

/// Frames before and after one whose energies count for it.
constexpr std::int64_t kEnergyReach = 4;

/// The local energy of what was taken out of a frame: the mean over the three colours of (noisy - restored)^2, blurred
/// in space. Noise alone gives its variance; more is picture. (height, width).
std::vector<float> taken_energy(const std::vector<float>& noisy, const std::vector<float>& restored,
                                std::int64_t height, std::int64_t width);

/// restored += max(0, 1 - 1.05 sigma^2 / energy) (noisy - restored), with the mean energy over the frames around: a
/// Wiener filter's share of what was taken out and is no noise. `around` are the energies of the frames from
/// kEnergyReach before to as many after; absent ones are null. Without noise all goes back.
void give_back(const std::vector<float>& noisy, std::span<const std::vector<float>* const> around, double sigma,
               std::vector<float>& restored);

}  // namespace kineograph::video

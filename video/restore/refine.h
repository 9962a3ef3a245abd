// A second look at the noisy frames, with the restored ones to say what is picture in them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kineograph::video {

/// Frames before and after one that are looked at with it, and all of them together.
constexpr std::int64_t kRefineBefore = 1, kRefineAfter = 2, kRefined = kRefineBefore + 1 + kRefineAfter;

/// The frame `own` of up to kRefined consecutive ones, of colours (3, height, width), refined. Blocks of 8 x 8 pixels
/// and all frames are transformed (DCT, colours as light and two differences); with P and Y a coefficient of the
/// restored and of the noisy block, it becomes
///
///   P^2 / (P^2 + 0.2 sigma^2) (P + K (Y - P)),   K = 0.6 P^2 / (0.6 P^2 + sigma^2)
///
/// the empirical Wiener filter of BM3D (Dabov et al. 2007, its second step), but that noise in a restored frame counts
/// a fifth of a noisy one's and its mean is kept. For white noise of deviation `sigma`, shared among the
/// three as the frame shows it.
std::vector<float> refined(std::span<const std::vector<float>* const> noisy,
                           std::span<const std::vector<float>* const> restored, std::size_t own, double sigma,
                           std::int64_t height, std::int64_t width);

}  // namespace kineograph::video

// Correction of the low frequencies, which a denoiser that sees patches gets wrong.
#pragma once

#include <cstdint>
#include <vector>

namespace kineograph::video {

/// Noise is white, so what is taken out of a picture has no low frequencies but the bias that clipping to -1..1 gives
/// it. Those found are the picture's, which a model that sees one patch by itself got wrong, and are put back: twice,
/// restored += blur(noisy - E[clip(restored + noise)]), with Gaussian noise of deviation `sigma`. The blur averages so
/// many pixels that little noise comes back with them. Both are colours (3, height, width).
void keep_low_frequencies(const std::vector<float>& noisy, double sigma, std::int64_t height, std::int64_t width,
                          std::vector<float>& restored);

/// Flicker has nothing but low frequencies, so what else a model has changed is put back:
/// restored = steady + blur(restored - steady), with `steady` the colours whose gain and offset are the level's.
void change_low_frequencies_only(const std::vector<float>& steady, std::int64_t height, std::int64_t width,
                                 std::vector<float>& restored);

}  // namespace kineograph::video

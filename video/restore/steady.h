// Against boiling: what is left of the noise is another one in every frame.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace kineograph::video {

/// Frames before and after one that are averaged with it.
constexpr std::int64_t kSteadyReach = 5;

/// A picture in four bands of frequencies, which sum to it: below 5 pixels (Gaussians' deviations), from 2.5 to 5, from
/// 1 to 2.5, and the rest. The coarser ones are kept as cells of 4 x 4 and 2 x 2 pixels.
class Bands {
 public:
  Bands() = default;
  Bands(const std::vector<float>& rgb, std::int64_t height, std::int64_t width);
  bool empty() const noexcept { return bands_[0].values.empty(); }

  /// The picture whose every band is the mean of the bands of the frames `around`, this one among them, where they
  /// agree in that band and in those below within what noise of deviation `sigma` leaves behind.
  std::vector<float> steadied(std::span<const Bands* const> around, double sigma) const;

 private:
  struct Band {
    std::int64_t cell = 1, rows = 0, columns = 0;
    std::vector<float> values;  // (3, rows, columns)
  };
  // Adds to `sums` and `weights` what another picture's bands say of this one's.
  void add(const Bands& other, double sigma, std::array<std::vector<float>, 4>& sums,
           std::array<std::vector<float>, 4>& weights) const;

  std::int64_t height_ = 0, width_ = 0;
  std::array<Band, 4> bands_;
};

}  // namespace kineograph::video

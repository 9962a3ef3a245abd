#include "video/restore/damage_estimate.h"

#include <algorithm>
#include <cmath>

namespace kineograph::video {
namespace {

// Frames that are judged together: a second or so.
constexpr std::size_t kMemory = 32;
// Blocks that are looked at in a frame: their median then varies by less than 1 %.
constexpr std::int64_t kBlocks = 60000;
// Rounding to levels and what no camera avoids; below, a frame counts as clean.
constexpr double kLeastSigma = 1.5 * kLevel;
// Motion changes a picture's mean by tenths of a level from frame to frame, a flicker worth the name by several.
constexpr double kLeastJumps = 1.5 * kLevel;
// The median of |x| for a normal x of deviation 1.
constexpr double kMedianOfNormal = 0.6745;

// The median of values, which are reordered.
double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The deviation of normal values with some larger ones among them. The median starts it; the values within 1.5
// deviations, of which a normal distribution has 0.5515 of its variance, refine it: 8-bit pixels give the differences a
// coarse grid, on which a median jumps and a mean of squares does not.
double robust_deviation(const std::vector<float>& differences) {
  std::vector<double> magnitudes(differences.size());
  std::transform(differences.begin(), differences.end(), magnitudes.begin(), [](float x) { return std::abs(x); });
  double deviation = median(magnitudes) / kMedianOfNormal;
  for (int i = 0; i < 4; ++i) {
    double squares = 0, count = 0;
    for (const double x : magnitudes)
      if (x <= 1.5 * deviation) {
        squares += x * x;
        ++count;
      }
    if (count == 0) break;
    deviation = std::sqrt(squares / count / 0.5515);
  }
  return deviation;
}

struct Block {
  float difference, mean;
};

// (a - b - c + d) / 2 has the deviation of independent a, b, c, d of equal deviations.
Block block_at(const float* p, std::int64_t width) {
  return {(p[0] - p[1] - p[width] + p[width + 1]) / 2, (p[0] + p[1] + p[width] + p[width + 1]) / 4};
}

// The differences of blocks that noise of deviation `sigma` does not push into black or white; all of them where those
// are too few to tell.
std::vector<float> unclipped(const std::vector<Block>& blocks, double sigma) {
  std::vector<float> inside, all;
  for (const Block& block : blocks) {
    all.push_back(block.difference);
    if (std::abs(block.mean) < 1 - 1.5 * sigma) inside.push_back(block.difference);
  }
  return inside.size() * 20 >= all.size() ? inside : all;
}

double deviation_of(const std::vector<Block>& blocks) {
  const double first = robust_deviation(unclipped(blocks, 0));
  return robust_deviation(unclipped(blocks, first));
}

}  // namespace

double noise_deviation(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                       std::int64_t width) {
  const std::int64_t down = height / 2, across = width / 2, count = 3 * down * across;
  if (count == 0) return 0;
  // An odd step walks through all columns.
  const std::int64_t step = std::max<std::int64_t>(1, count / kBlocks) | 1;
  std::vector<Block> spatial, temporal;
  for (std::int64_t i = 0; i < count; i += step) {
    const std::int64_t colour = i / (down * across), y = i / across % down * 2, x = i % across * 2;
    const std::int64_t at = (colour * height + y) * width + x;
    const Block here = block_at(rgb.data() + at, width);
    spatial.push_back(here);
    if (before.empty()) continue;
    const Block then = block_at(before.data() + at, width);
    temporal.push_back({(here.difference - then.difference) / std::sqrt(2.0f),
                        std::abs(here.mean) > std::abs(then.mean) ? here.mean : then.mean});
  }
  const double by_space = deviation_of(spatial);
  if (before.empty()) return by_space;
  const double by_time = deviation_of(temporal);
  // Frames that are shown twice do not differ at all, noise or not.
  return by_time > by_space / 8 ? std::min(by_space, by_time) : by_space;
}

void DamageEstimate::add(double noise, const Moments& moments, std::int64_t pixels) {
  sigmas_.push_back(noise);
  means_.push_back(moments.mean);
  errors_.push_back(moments.deviation / std::sqrt(static_cast<double>(pixels)));
  for (std::deque<double>* values : {&sigmas_, &means_, &errors_})
    if (values->size() > kMemory) values->pop_front();
}

double DamageEstimate::sigma() const { return median({sigmas_.begin(), sigmas_.end()}); }

double DamageEstimate::jumps() const {
  std::vector<double> bends;
  for (std::size_t i = 2; i < means_.size(); ++i)
    bends.push_back(std::abs(means_[i - 2] - 2 * means_[i - 1] + means_[i]));
  // A second difference of independent values has 1 + 4 + 1 times their variance.
  return bends.size() < 2 ? 0 : median(bends) / kMedianOfNormal / std::sqrt(6.0);
}

Damage DamageEstimate::damage() const {
  // A small frame's mean varies with every picture that is in it.
  const double chance = 4 * median({errors_.begin(), errors_.end()});
  if (jumps() < std::max(kLeastJumps, chance)) return Damage::noise;
  return sigma() < kLeastSigma ? Damage::flicker : Damage::both;
}

Moments LevelEstimate::update(std::span<const Moments> fresh, std::span<const Moments> window) {
  // Frames of the past that count at most: a slow change of light is followed.
  constexpr double kMost = 96;
  const Moments own = average(window);
  double spread = 0;
  for (const Moments& frame : window) spread += (frame.mean - own.mean) * (frame.mean - own.mean);
  const double count = static_cast<double>(window.size());
  // Error of the mean of a window's flicker; beyond three times that the picture is another one.
  const double error = std::sqrt(spread) / count;
  if (count_ == 0 || std::abs(own.mean - level_.mean) > 3 * error + kLevel) {
    count_ = count;
    return level_ = own;
  }
  for (const Moments& frame : fresh) {
    count_ = std::min(count_ + 1, kMost);
    level_.mean += (frame.mean - level_.mean) / count_;
    level_.deviation += (frame.deviation - level_.deviation) / count_;
  }
  return level_;
}

}  // namespace kineograph::video

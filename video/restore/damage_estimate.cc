#include "video/restore/damage_estimate.h"

#include <algorithm>
#include <cmath>

#include "video/restore/robust.h"

namespace kineograph::video {
namespace {

// Frames that are judged together: a second or so.
constexpr std::size_t kMemory = 32;
// Rounding to levels and what no camera avoids; below, a frame counts as clean. The whole of a noise of this deviation
// taken out by mistake leaves a frame 46 dB from itself.
constexpr double kLeastSigma = 1.25 * kLevel;
// Motion changes a picture's mean by tenths of a level from frame to frame, a flicker worth the name by several.
constexpr double kLeastJumps = 1.5 * kLevel;
// The second differences of independent levels have sqrt(3) times the deviation of the first; of light that swings with
// a period of eight frames 0.77 times, of slower light less.
constexpr double kLeastBend = 1.25;
// Of fewer frames that ratio is chance.
constexpr std::size_t kLeastFramesToBend = 8;
// A trend is told from chance where there are so many frames, and it is so many of its own deviations.
constexpr std::size_t kLeastFrames = 12;
constexpr double kLeastSlope = 4;

double median_of(const std::deque<double>& values) { return median({values.begin(), values.end()}); }

// The means' slope by least squares, where it is no chance.
double slope_of(std::span<const FrameReading> window) {
  const auto count = static_cast<double>(window.size());
  if (window.size() < kLeastFrames) return 0;
  double mean = 0, rise = 0, squares = 0, left = 0;
  for (const FrameReading& frame : window) mean += frame.moments.mean / count;
  const auto place = [&](std::size_t i) { return static_cast<double>(i) - (count - 1) / 2; };
  for (std::size_t i = 0; i < window.size(); ++i) {
    rise += place(i) * (window[i].moments.mean - mean);
    squares += place(i) * place(i);
  }
  const double slope = rise / squares;
  for (std::size_t i = 0; i < window.size(); ++i) {
    const double off = window[i].moments.mean - mean - slope * place(i);
    left += off * off;
  }
  return std::abs(slope) > kLeastSlope * std::sqrt(left / (count - 2) / squares) ? slope : 0;
}

}  // namespace

FrameReading read_frame(std::span<const float> rgb, std::span<const float> before, std::int64_t height,
                        std::int64_t width) {
  // Green is nearly luma.
  const auto pixels = static_cast<std::size_t>(height * width);
  std::vector<std::uint8_t> green(pixels);
  for (std::size_t i = 0; i < pixels; ++i)
    green[i] = static_cast<std::uint8_t>(std::clamp((rgb[pixels + i] + 1) * 127.5f + 0.5f, 0.0f, 255.0f));
  return {moments_of(rgb), read_noise(rgb, before, height, width), thumbnail_of(green, height, width), height * width};
}

void DamageEstimate::add(const FrameReading& reading) {
  noises_.push_back(reading.noise);
  means_.push_back(reading.moments.mean);
  errors_.push_back(reading.moments.deviation / std::sqrt(static_cast<double>(reading.pixels)));
  locals_.push_back(unexplained(before_, reading.thumbnail) * kLevel);
  before_ = reading.thumbnail;
  if (noises_.size() > kMemory) noises_.pop_front();
  for (std::deque<double>* values : {&means_, &errors_, &locals_})
    if (values->size() > kMemory) values->pop_front();
}

NoiseReading DamageEstimate::noise() const {
  NoiseReading noise;
  for (std::size_t scale = 0; scale < noise.scales.size(); ++scale) {
    std::vector<double> readings;
    for (const NoiseReading& reading : noises_) readings.push_back(reading.scales[scale]);
    noise.scales[scale] = median(readings);
  }
  return noise;
}

double DamageEstimate::jumps() const {
  std::vector<double> bends;
  for (std::size_t i = 2; i < means_.size(); ++i)
    bends.push_back(std::abs(means_[i - 2] - 2 * means_[i - 1] + means_[i]));
  // A second difference of independent values has 1 + 4 + 1 times their variance.
  return bends.size() < 2 ? 0 : median(bends) / kMedianOfNormal / std::sqrt(6.0);
}

bool DamageEstimate::flickers() const {
  // A small frame's mean varies with every picture that is in it.
  const double chance = 4 * median_of(errors_);
  if (jumps() < std::max(kLeastJumps, chance)) return false;
  // Of squares, not medians: light that swings takes few different steps, of which a median is any.
  double steps = 0, bends = 0;
  std::vector<double> locals;
  for (std::size_t i = 1; i < means_.size(); ++i) {
    const double step = means_[i] - means_[i - 1];
    steps += step * step;
    if (std::abs(step) > kLevel) locals.push_back(locals_[i] / std::abs(step));
    if (i < 2) continue;
    const double bend = step - (means_[i - 1] - means_[i - 2]);
    bends += bend * bend;
  }
  const auto count = static_cast<double>(means_.size());
  const bool swings = bends / (count - 2) < kLeastBend * kLeastBend * steps / (count - 1);
  return (means_.size() < kLeastFramesToBend || !swings) && median(locals) < 1;
}

bool DamageEstimate::is_noisy() const { return noise().sigma() >= kLeastSigma; }

Moments LevelEstimate::update(std::span<const Moments> fresh, std::span<const Moments> window) {
  // Frames of the past that count at most: a slow change of light is followed.
  constexpr double kMost = 96;
  const Moments own = average(window);
  double spread = 0;
  for (const Moments& frame : window) spread += (frame.mean - own.mean) * (frame.mean - own.mean);
  const double count = static_cast<double>(window.size());
  // What the mean of a window's flicker may be off by; beyond three times that the picture is another one.
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

void Judge::begin_scene() {
  estimate_ = {};
  level_ = {};
}

Judgement Judge::judge(std::span<const FrameReading> window, std::size_t fresh) {
  std::vector<Moments> moments;
  for (const FrameReading& frame : window) moments.push_back(frame.moments);
  const std::size_t seen = window.size() - fresh;
  for (const FrameReading& frame : window.subspan(seen)) estimate_.add(frame);
  const NoiseReading noise = estimate_.noise();
  Judgement judgement{damage_, sigma_.value_or(noise.sigma()), noise.coarseness(),
                      level_.update(std::span<const Moments>(moments).subspan(seen), moments), slope_of(window)};
  // A trend's middle is this window's, not that of all frames before.
  if (judgement.slope != 0) judgement.level = average(moments);
  if (!damage_) {
    const bool noisy = sigma_ ? *sigma_ > 0 : estimate_.is_noisy();
    if (estimate_.flickers())
      judgement.damage = noisy ? Damage::both : Damage::flicker;
    else if (noisy)
      judgement.damage = Damage::noise;
  }
  return judgement;
}

}  // namespace kineograph::video

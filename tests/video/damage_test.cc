// Damage that the trainer does to frames, and the estimates that restoring makes of it.
#include "video/train/damage.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "video/restore/damage_estimate.h"

namespace kineograph::video {
namespace {

constexpr std::int64_t kSide = 96, kFrames = 12, kValues = 3 * kSide * kSide;

DamageOptions only(Damage damage, double sigma) {
  DamageOptions options;
  options.probabilities = {0, 0, 0};
  options.probabilities[static_cast<std::size_t>(damage)] = 1;
  options.least_sigma = options.most_sigma = sigma;
  return options;
}

// A picture with edges and slopes, moving a pixel a frame, far from black and white.
std::vector<std::uint8_t> moving_picture() {
  std::vector<std::uint8_t> window(static_cast<std::size_t>(kFrames * kValues));
  for (std::int64_t f = 0; f < kFrames; ++f)
    for (std::int64_t c = 0; c < 3; ++c)
      for (std::int64_t y = 0; y < kSide; ++y)
        for (std::int64_t x = 0; x < kSide; ++x)
          window[static_cast<std::size_t>(f * kValues + (c * kSide + y) * kSide + x)] =
              static_cast<std::uint8_t>(90 + (x + f) / 4 + 10 * c + ((x + f) / 16 + y / 16) % 2 * 40);
  return window;
}

std::vector<float> colours(const std::vector<std::uint8_t>& window, std::int64_t f) {
  std::vector<float> frame;
  for (std::int64_t i = 0; i < kValues; ++i)
    frame.push_back(to_colour(window[static_cast<std::size_t>(f * kValues + i)]));
  return frame;
}

// Of noise drawn by the numbers: mean 0 and deviation 1 within four standard errors of a million draws, and the tails a
// normal distribution has.
TEST(RandomNumbers, AreNormal) {
  Random random(5, {1, 2});
  const int count = 1000000;
  double sum = 0, squares = 0, fourth = 0;
  int beyond2 = 0, beyond3 = 0;
  for (int i = 0; i < count; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    beyond2 += std::abs(x) > 2;
    beyond3 += std::abs(x) > 3;
  }
  EXPECT_NEAR(sum / count, 0, 4e-3);
  EXPECT_NEAR(squares / count, 1, 4 * std::sqrt(2.0) * 1e-3);
  EXPECT_NEAR(fourth / count, 3, 4 * std::sqrt(96.0) * 1e-3);
  EXPECT_NEAR(beyond2 / 1e6, 0.0455, 4 * 2.1e-4);
  EXPECT_NEAR(beyond3 / 1e6, 0.0027, 4 * 5.2e-5);
  // Quantiles to the digits that tables give.
  EXPECT_NEAR(Random::normal_quantile(0.975), 1.959963985, 1e-6);
  EXPECT_NEAR(Random::normal_quantile(0.6), 0.2533471031, 1e-6);
  EXPECT_NEAR(Random::normal_quantile(1e-9), -5.997807015, 3e-6);
  EXPECT_NEAR(Random::normal_quantile(1e-15), -7.941345326, 3e-6);
}

TEST(RandomNumbers, BelongToTheirPlace) {
  EXPECT_EQ(Random(1, {2, 3}).bits(), Random(1, {2, 3}).bits());
  EXPECT_NE(Random(1, {2, 3}).bits(), Random(1, {3, 2}).bits());
  EXPECT_NE(Random(1, {2, 3}).bits(), Random(2, {2, 3}).bits());
  // Fixed numbers: a run must be the same on every machine.
  EXPECT_EQ(Random(0, {}).bits(), 0xE220A8397B1DCDAFu);  // the first of splitmix64 from 0
}

TEST(ApplyDamage, NoiseHasItsDeviationAndNothingElse) {
  Random random(1, {});
  const auto clean = moving_picture();
  std::vector<std::uint8_t> damaged(clean.size());
  const AppliedDamage applied = apply_damage(random, only(Damage::noise, 20), kFrames, clean, damaged);
  EXPECT_EQ(applied.damage, Damage::noise);
  EXPECT_DOUBLE_EQ(applied.sigma, 20 * kLevel);
  double sum = 0, squares = 0;
  for (std::size_t i = 0; i < clean.size(); ++i) {
    const double difference = static_cast<double>(damaged[i]) - clean[i];
    sum += difference;
    squares += difference * difference;
  }
  const double count = static_cast<double>(clean.size());
  EXPECT_NEAR(sum / count, 0, 4 * 20 / std::sqrt(count));
  EXPECT_NEAR(std::sqrt(squares / count), 20, 0.1);
  // Without flicker the level is what the damaged frames have on average.
  std::vector<Moments> frames;
  for (std::int64_t f = 0; f < kFrames; ++f) frames.push_back(moments_of(colours(damaged, f)));
  EXPECT_NEAR(applied.level.mean, average(frames).mean, 1e-6);
  EXPECT_NEAR(applied.level.deviation, average(frames).deviation, 1e-6);
}

TEST(ApplyDamage, ClipsToWhatBytesHold) {
  Random random(1, {});
  std::vector<std::uint8_t> clean(3 * 64 * 64, 2), damaged(clean.size());
  apply_damage(random, only(Damage::noise, 50), 1, clean, damaged);
  std::size_t black = 0;
  for (const std::uint8_t level : damaged) black += level == 0;
  // P(2 + 50 z < 0.5)
  EXPECT_NEAR(static_cast<double>(black) / static_cast<double>(damaged.size()), 0.488, 0.02);
}

TEST(ApplyDamage, FlickerIsAGainAndAnOffsetAFrame) {
  Random random(7, {});
  const auto clean = moving_picture();
  std::vector<std::uint8_t> damaged(clean.size());
  const AppliedDamage applied = apply_damage(random, only(Damage::flicker, 20), kFrames, clean, damaged);
  EXPECT_EQ(applied.sigma, 0);
  double least = 1e9, most = -1e9;
  for (std::int64_t f = 0; f < kFrames; ++f) {
    const Moments before = moments_of(colours(clean, f)), after = moments_of(colours(damaged, f));
    const double gain = after.deviation / before.deviation;
    EXPECT_GT(gain, 0.74);
    EXPECT_LT(gain, 1.26);
    const double offset = ((after.mean + 1) - (before.mean + 1) * gain) / kLevel;
    EXPECT_LT(std::abs(offset), 21);
    least = std::min(least, gain);
    most = std::max(most, gain);
    // It is the same for all of the frame's pixels: what is left after undoing it is rounding.
    for (std::int64_t i = 0; i < kValues; i += 97) {
      const auto at = static_cast<std::size_t>(f * kValues + i);
      EXPECT_NEAR(damaged[at], clean[at] * gain + offset, 1.0);
    }
  }
  EXPECT_GT(most - least, 0.1);
  EXPECT_NEAR(
      applied.level.mean,
      average(std::vector<Moments>{moments_of(colours(clean, 0)), moments_of(colours(clean, kFrames - 1))}).mean, 0.02);
}

TEST(ApplyDamage, DrawsDamagesAsLikelyAsAsked) {
  DamageOptions options;
  options.probabilities = {0.7, 0.15, 0.15};
  std::vector<std::uint8_t> clean(48, 100), damaged(48);
  int counts[kDamages] = {};
  double least = 1e9, most = 0;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    Random random(3, {i});
    const AppliedDamage applied = apply_damage(random, options, 1, clean, damaged);
    ++counts[static_cast<int>(applied.damage)];
    if (!has_noise(applied.damage)) continue;
    least = std::min(least, applied.sigma / kLevel);
    most = std::max(most, applied.sigma / kLevel);
  }
  EXPECT_NEAR(counts[0] / 4000.0, 0.7, 0.03);
  EXPECT_NEAR(counts[1] / 4000.0, 0.15, 0.025);
  EXPECT_NEAR(counts[2] / 4000.0, 0.15, 0.025);
  EXPECT_NEAR(least, 5, 0.2);
  EXPECT_NEAR(most, 55, 0.2);
}

TEST(Normalise, NoiseKeepsTheWindowsOwnLevelAndFlickerTakesTheFrames) {
  const std::vector<Moments> frames{{0.1, 0.3}, {-0.3, 0.4}};
  const Normalisation noise = normalise(Damage::noise, frames, {9, 9});
  EXPECT_NEAR(noise.level.mean, -0.1, 1e-15);
  EXPECT_NEAR(noise.level.deviation, std::sqrt((0.09 + 0.16) / 2 + 0.04), 1e-15);
  EXPECT_EQ(noise.frames[0].mean, noise.level.mean);
  const Normalisation flicker = normalise(Damage::flicker, frames, {0.2, 0.5});
  EXPECT_EQ(flicker.frames[1].mean, -0.3);
  EXPECT_EQ(flicker.level.deviation, 0.5);
  // A flat window.
  EXPECT_EQ(normalise(Damage::both, std::vector<Moments>{{0, 0}}, {0, 0}).frames[0].deviation, kLevel);
  EXPECT_EQ(timestep_of(0.1, {0, 0.4}), 250);
  EXPECT_EQ(timestep_of(1, {0, 0.4}), 1000);
}

// Shows an estimate the next frame.
struct Watcher {
  DamageEstimate estimate;
  std::vector<float> before = {};

  void watch(std::vector<float> rgb) {
    estimate.add(read_frame(rgb, before, kSide, kSide));
    before = std::move(rgb);
  }
  std::optional<Damage> damage() const {
    if (estimate.flickers()) return estimate.is_noisy() ? Damage::both : Damage::flicker;
    return estimate.is_noisy() ? std::optional(Damage::noise) : std::nullopt;
  }
  double levels() const { return estimate.noise().sigma() / kLevel; }
};

class EstimateTest : public testing::TestWithParam<double> {};

TEST_P(EstimateTest, FindsTheNoise) {
  const double sigma = GetParam();
  for (const Damage damage : {Damage::noise, Damage::both}) {
    Random random(11, {static_cast<std::uint64_t>(damage)});
    const auto clean = moving_picture();
    std::vector<std::uint8_t> damaged(clean.size());
    apply_damage(random, only(damage, sigma), kFrames, clean, damaged);
    Watcher watcher;
    for (std::int64_t f = 0; f < kFrames; ++f) watcher.watch(colours(damaged, f));
    EXPECT_EQ(watcher.damage(), damage);
    EXPECT_NEAR(watcher.levels(), sigma, 0.06 * sigma + 0.3);
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, EstimateTest, testing::Values(3, 10, 25, 50));

TEST(DamageEstimate, FindsFlickerAloneAndNothing) {
  const auto clean = moving_picture();
  std::vector<std::uint8_t> damaged(clean.size());
  Random random(2, {});
  apply_damage(random, only(Damage::flicker, 0), kFrames, clean, damaged);
  Watcher flicker, nothing;
  for (std::int64_t f = 0; f < kFrames; ++f) {
    flicker.watch(colours(damaged, f));
    nothing.watch(colours(clean, f));
  }
  EXPECT_EQ(flicker.damage(), Damage::flicker);
  EXPECT_LT(flicker.levels(), 1.25);
  EXPECT_EQ(nothing.damage(), std::nullopt);
  EXPECT_LT(nothing.levels(), 1);
  // Frames without a 2 x 2 block say nothing.
  EXPECT_EQ(noise_deviation(std::vector<float>(3, 0.5f), {}, 1, 1), 0);
}

// A frame that is shown twice has the same noise twice.
TEST(DamageEstimate, IsNotFooledByRepeatedFrames) {
  const auto clean = moving_picture();
  std::vector<std::uint8_t> damaged(clean.size());
  Random random(2, {});
  apply_damage(random, only(Damage::noise, 20), kFrames, clean, damaged);
  Watcher watcher;
  for (std::int64_t f = 0; f < kFrames; ++f) watcher.watch(colours(damaged, f / 2));
  EXPECT_NEAR(watcher.levels(), 20, 1.5);
}

TEST(LevelEstimate, AveragesOverWindowsAndStartsAnewAtACut) {
  LevelEstimate level;
  const std::vector<Moments> first{{0.2, 0.5}, {-0.2, 0.3}}, second{{0.1, 0.4}, {0.1, 0.4}},
      cut{{0.9, 0.1}, {0.9, 0.1}};
  EXPECT_NEAR(level.update(first, first).mean, 0, 1e-12);
  const std::vector<Moments> window{first[1], second[0]};
  EXPECT_NEAR(level.update(std::span(second).subspan(0, 1), window).mean, 0.1 / 3, 1e-12);
  EXPECT_NEAR(level.update(cut, cut).mean, 0.9, 1e-12);
}

}  // namespace
}  // namespace kineograph::video

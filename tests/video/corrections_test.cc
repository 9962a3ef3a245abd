// What restoring does beside the model: noise told from picture, taken out no further than there is any, and no
// boiling.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "video/restore/blur.h"
#include "video/restore/give_back.h"
#include "video/restore/noise.h"
#include "video/restore/refine.h"
#include "video/restore/restoration.h"
#include "video/restore/steady.h"

namespace kineograph::video {
namespace {

constexpr std::int64_t kHeight = 136, kWidth = 200;
constexpr auto kPlane = static_cast<std::size_t>(kHeight * kWidth);

using Colours = std::vector<float>;

// Waves and a chequered part, moved by `shift` pixels.
Colours picture(double shift = 0) {
  Colours rgb(3 * kPlane);
  for (std::size_t i = 0; i < rgb.size(); ++i) {
    const auto pixel = static_cast<std::int64_t>(i % kPlane);
    const std::size_t plane = i / kPlane;
    const std::int64_t row = pixel / kWidth;
    const double y = static_cast<double>(row), x = static_cast<double>(pixel % kWidth) + shift;
    const bool chequered = y > 100 && std::fmod(std::floor(x / 5) + std::floor(y / 5), 2) == 0;
    rgb[i] =
        static_cast<float>(0.3 * std::sin(0.05 * x + 0.03 * y + static_cast<double>(plane)) + (chequered ? 0.3 : 0));
  }
  return rgb;
}

// Noise of deviation `sigma`, blurred by `grain` pixels where that is not 0.
Colours noise(unsigned seed, float sigma, double grain = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Colours values(3 * kPlane);
  for (float& value : values) value = normal(random);
  double squares = 0;
  for (std::size_t colour = 0; colour < 3 && grain > 0; ++colour)
    blur(values.data() + colour * kPlane, kHeight, kWidth, grain);
  for (const float value : values) squares += value * value;
  const auto scale = static_cast<float>(sigma / std::sqrt(squares / static_cast<double>(values.size())));
  for (float& value : values) value *= scale;
  return values;
}

Colours sum(Colours a, const Colours& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

double deviation(const Colours& a, const Colours& b) {
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(squares / static_cast<double>(a.size()));
}

TEST(Noise, ReadsAlikeAtAllScalesWhereItIsWhite) {
  const float sigma = 20 * kLevel;
  const NoiseReading white =
      read_noise(sum(picture(), noise(1, sigma)), sum(picture(2), noise(2, sigma)), kHeight, kWidth);
  EXPECT_NEAR(white.sigma() / sigma, 1, 0.06);
  EXPECT_EQ(white.coarseness(), 1);
}

TEST(Noise, IsFoundWhereNeighbouringPixelsShareIt) {
  const float sigma = 18 * kLevel;
  const Colours here = sum(picture(), noise(1, sigma, 1)), before = sum(picture(), noise(2, sigma, 1));
  const NoiseReading grain = read_noise(here, before, kHeight, kWidth);
  EXPECT_GT(grain.coarseness(), 5);
  EXPECT_GT(grain.sigma() / sigma, 0.65);
  EXPECT_LT(grain.sigma() / sigma, 1.1);
  // The finest scale alone sees a quarter of it.
  EXPECT_LT(noise_deviation(here, before, kHeight, kWidth) / sigma, 0.35);
}

// Motion is in a part of a frame, and a frame without one before it says nothing of coarse noise.
TEST(Noise, IsNotReadFromPicturesThatMove) {
  const NoiseReading moving = read_noise(picture(3), picture(), kHeight, kWidth);
  EXPECT_LT(moving.sigma(), 0.7 * kLevel);
  EXPECT_EQ(read_noise(sum(picture(), noise(1, 0.1f, 1)), {}, kHeight, kWidth).coarseness(), 1);
  EXPECT_EQ(read_noise(Colours(3, 0.5f), {}, 1, 1).sigma(), 0);
}

std::vector<const Colours*> alone(const Colours& energy) {
  std::vector<const Colours*> around(2 * kEnergyReach + 1, nullptr);
  around[kEnergyReach] = &energy;
  return around;
}

TEST(GiveBack, LeavesTheNoiseOutAndPutsThePictureBack) {
  const float sigma = 10 * kLevel;
  const Colours clean = picture(), noisy = sum(clean, noise(1, sigma));
  // A model that takes out the noise and, in the lower half, half of the picture.
  Colours restored = clean;
  for (std::size_t i = 0; i < restored.size(); ++i)
    if (i % kPlane > kPlane / 2) restored[i] *= 0.3f;
  const Colours energy = taken_energy(noisy, restored, kHeight, kWidth);
  Colours given = restored;
  give_back(noisy, alone(energy), sigma, given);
  double upper = 0, lower = 0, harm = 0;
  for (std::size_t i = 0; i < kPlane; ++i) {
    const double off = given[i] - clean[i], before = restored[i] - clean[i];
    (i > kPlane / 2 ? lower : upper) += off * off * 2 / static_cast<double>(kPlane);
    harm += before * before * 2 / static_cast<double>(kPlane);
  }
  EXPECT_LT(std::sqrt(upper), 0.35 * sigma);
  EXPECT_LT(std::sqrt(lower), 1.1 * sigma);
  EXPECT_GT(std::sqrt(harm), 1.4 * sigma);
}

TEST(GiveBack, GivesAllBackWhereThereIsNoNoise) {
  const Colours noisy = picture();
  Colours restored(noisy.size(), 0.0f);
  const Colours energy = taken_energy(noisy, restored, kHeight, kWidth);
  give_back(noisy, alone(energy), 0, restored);
  EXPECT_LT(deviation(restored, noisy), 1e-6);
}

TEST(GiveBack, GivesTheInputWhereAModelGivesNothing) {
  const Colours noisy = picture();
  Colours restored = noisy;
  restored[7 * kWidth + 9] = std::nanf("");
  const Colours energy = taken_energy(noisy, restored, kHeight, kWidth);
  give_back(noisy, alone(energy), 0.1, restored);
  for (std::size_t i = 0; i < restored.size(); ++i) ASSERT_EQ(restored[i], noisy[i]) << i;
}

TEST(Bands, AloneAreThePicture) {
  const Colours rgb = sum(picture(), noise(1, 0.1f));
  const Bands bands(rgb, kHeight, kWidth);
  const Bands* own[] = {&bands};
  EXPECT_LT(deviation(bands.steadied(own, 0.1), rgb), 1e-6);
  // One pixel, and extents that no cell divides.
  for (const auto& [height, width] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 7}, {5, 2}}) {
    const Colours small(static_cast<std::size_t>(3 * height * width), 0.25f);
    const Bands of_small(small, height, width);
    const Bands* around[] = {&of_small, &of_small};
    EXPECT_LT(deviation(of_small.steadied(around, 0.1), small), 1e-6);
  }
}

// What a restored picture has left, a twentieth of the noise and blurred, goes; what has moved does not come in.
TEST(Bands, AverageWhatStandsStillAndNothingElse) {
  const float sigma = 25 * kLevel;
  const auto left = [&](unsigned seed) { return noise(seed, 0.05f * sigma, 3); };
  std::vector<Bands> still, moving;
  std::vector<const Bands*> of_still, of_moving;
  const Colours first = sum(picture(), left(1));
  for (unsigned f = 0; f < 11; ++f) {
    still.emplace_back(sum(picture(), left(f + 1)), kHeight, kWidth);
    moving.emplace_back(sum(picture(25.0 * f), left(f + 1)), kHeight, kWidth);
  }
  for (std::size_t f = 0; f < still.size(); ++f) {
    of_still.push_back(&still[f]);
    of_moving.push_back(&moving[f]);
  }
  const double before = deviation(first, picture());
  EXPECT_LT(deviation(still[0].steadied(of_still, sigma), picture()), 0.5 * before);
  EXPECT_LT(deviation(moving[0].steadied(of_moving, sigma), picture()), 1.05 * before);
}

// A restored picture that has lost half of its fine texture gets some of that back from the noisy frames, and no noise
// where it is flat.
TEST(Refined, TakesTextureFromTheNoisyFrames) {
  const float sigma = 10 * kLevel;
  const Colours clean = picture();
  Colours soft = clean;
  for (std::size_t colour = 0; colour < 3; ++colour) blur(soft.data() + colour * kPlane, kHeight, kWidth, 1);
  std::vector<Colours> noisy;
  std::vector<const Colours*> of_noisy, of_restored;
  for (unsigned f = 0; f < 4; ++f) noisy.push_back(sum(clean, noise(f + 1, sigma)));
  for (const Colours& frame : noisy) {
    of_noisy.push_back(&frame);
    of_restored.push_back(&soft);
  }
  const Colours made = refined(of_noisy, of_restored, 1, sigma, kHeight, kWidth);
  EXPECT_LT(deviation(made, clean), 0.8 * deviation(soft, clean));
  // The upper half has waves alone, which the blur did not harm.
  const auto upper = [](const Colours& rgb) { return Colours(rgb.begin(), rgb.begin() + kPlane / 2); };
  EXPECT_LT(deviation(upper(made), upper(clean)), 0.15 * sigma);
  // Noise that is alike in all colours has thrice the variance in light, and none in the differences.
  std::vector<Colours> grey;
  std::vector<const Colours*> of_grey;
  for (unsigned f = 0; f < 4; ++f) {
    Colours alike = noise(f + 1, sigma);
    std::copy_n(alike.begin(), kPlane, alike.begin() + kPlane);
    std::copy_n(alike.begin(), kPlane, alike.begin() + 2 * kPlane);
    grey.push_back(sum(clean, alike));
  }
  for (const Colours& frame : grey) of_grey.push_back(&frame);
  EXPECT_LT(deviation(upper(refined(of_grey, of_restored, 1, sigma, kHeight, kWidth)), upper(clean)), 0.25 * sigma);
  // One frame alone, and frames smaller than a block.
  EXPECT_LT(deviation(refined({&of_noisy[0], 1}, {&of_restored[0], 1}, 0, sigma, kHeight, kWidth), clean),
            deviation(soft, clean));
  const Colours small(3 * 5 * 3, 0.25f);
  const Colours* one[] = {&small};
  EXPECT_LT(deviation(refined(one, one, 0, sigma, 5, 3), small), 1e-5);
}

}  // namespace
}  // namespace kineograph::video

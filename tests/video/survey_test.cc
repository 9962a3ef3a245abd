// What a clip is taken for, and that a part of a film restored by itself is that part of the whole.
#include "video/restore/survey.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "kineograph/kineograph.h"
#include "video/restore/restorer.h"

namespace kineograph::video {
namespace {

constexpr std::int64_t kWidth = 96, kHeight = 80;

Y4mHeader header() {
  Y4mHeader header;
  header.width = kWidth;
  header.height = kHeight;
  header.chroma = Chroma::mono;
  header.full_range = true;
  return header;
}

using Frame = std::vector<std::uint8_t>;

// Waves of a scene of its own, moving a little, times a gain, with noise.
Frame frame_of(int scene, int number, double sigma, const std::function<double(int, int, int)>& gain) {
  std::mt19937 random(static_cast<unsigned>(1000 * scene + number));
  std::normal_distribution<double> normal(0, 1);
  Frame frame;
  for (int y = 0; y < kHeight; ++y)
    for (int x = 0; x < kWidth; ++x) {
      const double wave = std::sin((x + 0.3 * number) * (0.07 + 0.06 * scene) + y * (scene % 2 == 0 ? 0.12 : -0.2));
      const double value = (120 + 50 * wave) * gain(number, y, x) + (sigma > 0 ? sigma * normal(random) : 0);
      frame.push_back(static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))));
    }
  return frame;
}

double steady(int, int, int) { return 1; }

std::vector<Judgement> judgements(int frames, double sigma, const std::function<double(int, int, int)>& gain) {
  Survey survey(header(), {.window = 16});
  std::vector<Judgement> all;
  const auto add = [&](const std::vector<Step>& steps) {
    for (const Step& step : steps)
      if (step.window) all.push_back(step.judgement);
  };
  for (int f = 0; f < frames; ++f) add(survey.push(frame_of(0, f, sigma, gain)));
  add(survey.finish());
  return all;
}

void expect_all(const std::vector<Judgement>& all, std::optional<Damage> damage) {
  EXPECT_FALSE(all.empty());
  for (const Judgement& judgement : all) EXPECT_TRUE(judgement.damage == damage);
}

TEST(Survey, FindsNothingInACleanClip) { expect_all(judgements(40, 0, steady), std::nullopt); }

TEST(Survey, FindsNoise) { expect_all(judgements(40, 6, steady), Damage::noise); }

TEST(Survey, FindsFlickerWithAndWithoutNoise) {
  const auto flicker = [](int f, int, int) { return 1 + 0.12 * std::sin(f * f * 1.7 + f); };
  expect_all(judgements(40, 0, flicker), Damage::flicker);
  expect_all(judgements(40, 6, flicker), Damage::both);
}

// Swings, a fade, a lamp switched on, and a lamp that flashes in a quarter of the picture.
TEST(Survey, TakesLightThatChangesOnPurposeForNoFlicker) {
  for (const int period : {8, 12, 24})
    expect_all(judgements(48, 0, [=](int f, int, int) { return 1 + 0.2 * std::sin(6.2832 * f / period); }),
               std::nullopt);
  expect_all(judgements(48, 0, [](int f, int, int) { return 1.2 - 0.02 * f; }), std::nullopt);
  expect_all(judgements(48, 0, [](int f, int, int) { return f < 20 ? 0.7 : 1.2; }), std::nullopt);
  expect_all(judgements(48, 0, [](int f, int y, int x) { return y < 40 && x < 48 && f * f % 3 == 1 ? 1.6 : 1; }),
             std::nullopt);
}

// A scene with noise does not make the next one noisy.
TEST(Survey, JudgesEverySceneByItself) {
  Survey survey(header(), {.window = 16});
  std::vector<Step> steps;
  for (int f = 0; f < 60; ++f)
    for (const Step& step : survey.push(frame_of(f < 30 ? 0 : 1, f, f < 30 ? 20 : 0, steady))) steps.push_back(step);
  for (const Step& step : survey.finish()) steps.push_back(step);
  int scenes = 0;
  for (const Step& step : steps) {
    scenes += step.ends_scene;
    if (step.window) {
      EXPECT_EQ(step.judgement.damage.has_value(), step.window->start < 30) << step.window->start;
    }
  }
  EXPECT_EQ(scenes, 2);
}

TransformerTemporalModel model() {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 48;
  config.norm_num_groups = 1;
  config.double_self_attention = false;
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 3;
  config.private_keys = {{"_prediction_type", "\"epsilon\""}};
  return TransformerTemporalModel::from_config(config, 3);
}

std::vector<Frame> film() {
  std::vector<Frame> frames;
  for (int f = 0; f < 90; ++f) frames.push_back(frame_of(f < 20 ? 0 : f < 70 ? 1 : 2, f, f < 70 ? 12 : 0, steady));
  return frames;
}

std::vector<Frame> restored(Restorer& restorer, const std::vector<Frame>& frames, std::int64_t first) {
  std::vector<Frame> all;
  Frame frame;
  for (std::size_t f = static_cast<std::size_t>(first); f < frames.size(); ++f) {
    restorer.push(frames[f]);
    while (restorer.pop(frame)) all.push_back(frame);
  }
  restorer.finish();
  while (restorer.pop(frame)) all.push_back(frame);
  return all;
}

// From every frame on: with the windows judged before, and from where first_frame() says.
TEST(Restorer, APartOfAFilmIsThatPartOfTheWhole) {
  const std::vector<Frame> frames = film();
  RestoreOptions options;
  options.window = 8;
  options.shifts = 4;
  Restorer whole(model(), header(), options);
  const std::vector<Frame> wanted = restored(whole, frames, 0);
  ASSERT_EQ(wanted.size(), frames.size());
  EXPECT_TRUE(wanted[80] == frames[80]);  // nothing is wrong with the last scene
  EXPECT_FALSE(wanted[40] == frames[40]);
  Judgements judgements;
  Survey survey(header(), {.window = 8});
  const auto add = [&](const std::vector<Step>& steps) {
    for (const Step& step : steps)
      if (step.window) judgements[step.window->start] = step.judgement;
  };
  for (const Frame& frame : frames) add(survey.push(frame));
  add(survey.finish());
  options.judgements = &judgements;
  for (const std::int64_t begin : {0, 5, 20, 21, 44, 45, 46, 63, 69, 70, 89}) {
    options.scene = begin < 20 ? 0 : begin < 70 ? 20 : 70;
    options.first = first_frame(begin, options.scene, options.window);
    EXPECT_LE(options.first, begin);
    Restorer part(model(), header(), options);
    const std::vector<Frame> given = restored(part, frames, options.first);
    ASSERT_EQ(given.size(), frames.size() - static_cast<std::size_t>(options.first));
    for (std::int64_t f = begin; f < 90; ++f)
      ASSERT_TRUE(given[static_cast<std::size_t>(f - options.first)] == wanted[static_cast<std::size_t>(f)])
          << "frame " << f << " from " << begin;
  }
}

TEST(Restorer, SaysWhereAPlanHasNoJudgement) {
  const Judgements none;
  RestoreOptions options;
  options.window = 4;
  options.judgements = &none;
  Restorer restorer(model(), header(), options);
  const std::vector<Frame> frames = film();
  for (int f = 0; f < 3; ++f) restorer.push(frames[0]);
  EXPECT_THROW(restorer.push(frames[0]), FormatError);
}

}  // namespace
}  // namespace kineograph::video

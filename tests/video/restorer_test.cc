// Windows, shifts and weights: what goes in comes out where the model changes nothing, whatever the extents.
#include "video/restore/restorer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"
#include "video/restore/low_frequencies.h"
#include "video/scenes.h"

namespace kineograph::video {
namespace {

TransformerTemporalConfig config_of(std::int64_t patch, const std::string& prediction = "sample") {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 3 * patch * patch;
  config.norm_num_groups = 1;
  config.double_self_attention = false;
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 3;
  config.private_keys = {{"_prediction_type", "\"" + prediction + "\""}};
  return config;
}

// Weights drawn from a seed, proj_out scaled: by 0 the model gives its input back.
TransformerTemporalModel model_of(const TransformerTemporalConfig& config, float proj_out) {
  const auto model = TransformerTemporalModel::from_config(config, 3);
  std::vector<Parameter> parameters = model.parameters();
  std::vector<Tensor> scaled;
  scaled.reserve(2);
  for (Parameter& parameter : parameters)
    if (parameter.name.starts_with("proj_out.")) {
      Tensor& values = scaled.emplace_back(convert(parameter.value, DType::f32));
      for (std::int64_t i = 0; i < values.numel(); ++i) values.data_as<float>()[i] *= proj_out;
      parameter.value = values;
    }
  const auto owner =
      std::make_shared<std::pair<TransformerTemporalModel, std::vector<Tensor>>>(model, std::move(scaled));
  return TransformerTemporalModel::from_state_dict(config, parameters, owner);
}

using Frames = std::vector<std::vector<std::uint8_t>>;

Y4mHeader header_of(std::int64_t width, std::int64_t height, Chroma chroma) {
  Y4mHeader header;
  header.width = width;
  header.height = height;
  header.chroma = chroma;
  return header;
}

Frames noise(const Y4mHeader& header, std::int64_t count, std::uint8_t low = 0, std::uint8_t high = 255) {
  std::mt19937 random(static_cast<unsigned>(count));
  Frames frames(static_cast<std::size_t>(count));
  for (auto& frame : frames) {
    frame.resize(static_cast<std::size_t>(header.frame_bytes()));
    for (auto& value : frame) value = static_cast<std::uint8_t>(low + random() % static_cast<unsigned>(high - low + 1));
  }
  return frames;
}

Frames restore(const TransformerTemporalModel& model, const Y4mHeader& header, const RestoreOptions& options,
               const Frames& frames) {
  Restorer restorer(model, header, options);
  Frames restored;
  std::vector<std::uint8_t> frame;
  for (const auto& given : frames) {
    restorer.push(given);
    while (restorer.pop(frame)) restored.push_back(frame);
  }
  restorer.finish();
  while (restorer.pop(frame)) restored.push_back(frame);
  return restored;
}

// Every byte, for all layouts, odd extents, extents below a patch, and lengths around the window's.
TEST(Restorer, AnIdentityGivesTheVideoBack) {
  const auto model = model_of(config_of(4), 0);
  for (Chroma chroma : {Chroma::mono, Chroma::c420, Chroma::c422, Chroma::c444})
    for (const auto& [width, height] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 2}, {13, 7}, {16, 12}})
      for (std::int64_t length : {1, 4, 5, 6, 17}) {
        const Y4mHeader header = header_of(width, height, chroma);
        const Frames frames = noise(header, length);
        RestoreOptions options;
        options.window = 5;
        options.damage = Damage::noise;  // a clip of noise of one pixel flickers
        EXPECT_TRUE(restore(model, header, options, frames) == frames)
            << width << "x" << height << " chroma " << static_cast<int>(chroma) << " length " << length;
      }
}

TEST(Restorer, AnIdentityGivesTheVideoBackForEveryGridWindowAndDamage) {
  const Y4mHeader header = header_of(19, 11, Chroma::c444);
  const Frames frames = noise(header, 7);
  for (std::int64_t patch : {1, 2, 4, 8}) {
    const auto model = model_of(config_of(patch), 0);
    for (std::int64_t shifts : {1, 2, 4, 8, 16})
      for (std::int64_t window : {1, 2, 3, 7, 9}) {
        RestoreOptions options;
        options.window = window;
        options.shifts = shifts;
        options.sigma = 20;
        options.damage = Damage::noise;
        EXPECT_TRUE(restore(model, header, options, frames) == frames)
            << "patch " << patch << " shifts " << shifts << " window " << window;
      }
  }
}

// sample = x + p: one model gives x + p, the other, which says that sample is the damage, x - sample = -p. Together
// they are x, but for the level: p is around 0 and x around the window's mean.
TEST(Restorer, ModelsMayPredictTheDamage) {
  const Y4mHeader header = header_of(19, 11, Chroma::c444);
  const Frames frames = noise(header, 6, 90, 160);
  RestoreOptions options;
  options.window = 4;
  options.sigma = 20;
  options.damage = Damage::noise;
  options.corrections = false;
  const Frames whole = restore(model_of(config_of(4), 0.5f), header, options, frames);
  const Frames damage = restore(model_of(config_of(4, "epsilon"), 0.5f), header, options, frames);
  const Frames level = restore(model_of(config_of(4, "epsilon"), 0), header, options, frames);
  ASSERT_EQ(whole.size(), frames.size());
  ASSERT_EQ(damage.size(), frames.size());
  bool changed = false;
  for (std::size_t f = 0; f < frames.size(); ++f)
    for (std::size_t i = 0; i < static_cast<std::size_t>(header.width * header.height); ++i) {
      EXPECT_EQ(level[f][i], level[0][0]) << "a model that finds all to be damage leaves nothing but the mean";
      EXPECT_NEAR(int{whole[f][i]} + damage[f][i], int{frames[f][i]} + level[f][i], 3);
      changed = changed || std::abs(int{whole[f][i]} - int{frames[f][i]}) > 5;
    }
  EXPECT_TRUE(changed);
}

// A model that takes everything out for noise, a picture of slow waves included: the waves come back, since noise has
// none.
TEST(Restorer, KeepsLowFrequenciesThatAreNoNoise) {
  const Y4mHeader header = header_of(96, 80, Chroma::mono);
  Frames frames;
  for (int f = 0; f < 4; ++f) {
    auto& frame = frames.emplace_back();
    for (int y = 0; y < 80; ++y)
      for (int x = 0; x < 96; ++x)
        frame.push_back(static_cast<std::uint8_t>(128 + 60 * std::cos(x * 0.0327249) * std::cos(y * 0.0392699)));
  }
  RestoreOptions options;
  options.window = 4;
  options.sigma = 5;
  options.damage = Damage::noise;
  const auto worst = [&](bool keep) {
    options.corrections = keep;
    const Frames restored = restore(model_of(config_of(4, "epsilon"), 0), header, options, frames);
    int most = 0;
    for (std::size_t i = 0; i < 96 * 80; ++i) most = std::max(most, std::abs(int{restored[0][i]} - int{frames[0][i]}));
    return most;
  };
  EXPECT_GT(worst(false), 40);
  EXPECT_LE(worst(true), 3);
}

// Clipping gives noise near white a bias: 0.066 here, which is no part of the picture and must not come back.
TEST(LowFrequencies, TheBiasOfClippingIsNoPicture) {
  constexpr float kColour = 0.95f, kSigma = 0.3f;
  std::mt19937 random(3);
  std::normal_distribution<float> normal(kColour, kSigma);
  std::vector<float> noisy(std::size_t{3} * 96 * 96), restored(noisy.size(), kColour);
  for (float& value : noisy) value = std::clamp(normal(random), -1.0f, 1.0f);
  keep_low_frequencies(noisy, kSigma, 96, 96, restored);
  double sum = 0;
  for (const float value : restored) sum += value;
  EXPECT_NEAR(sum / static_cast<double>(restored.size()), kColour, 0.01);
  // Detail that the model took for noise comes back, and a NaN stays within the reach of its patch.
  std::fill(restored.begin(), restored.end(), kColour - 0.2f);
  restored[0] = std::numeric_limits<float>::quiet_NaN();
  keep_low_frequencies(noisy, kSigma, 96, 96, restored);
  EXPECT_NEAR(restored[50 * 96 + 50], kColour, 0.06);
}

TEST(Restorer, GivesTheSameForAnyNumberOfThreads) {
  const Y4mHeader header = header_of(19, 11, Chroma::c420);
  const Frames frames = noise(header, 11, 60, 180);
  const auto model = model_of(config_of(4, "epsilon"), 0.5f);
  RestoreOptions options;
  options.window = 4;
  options.threads = 1;
  const Frames by_one = restore(model, header, options, frames);
  options.threads = 3;
  EXPECT_TRUE(restore(model, header, options, frames) == by_one);
  options.shifts = 4;
  EXPECT_FALSE(restore(model, header, options, frames) == by_one);
}

// Frames that differ in gain and offset only: taken out of each and put back with the clip's level, they are all alike.
TEST(Restorer, TakesFlickerOut) {
  const Y4mHeader header = header_of(24, 16, Chroma::mono);
  const Frames still = noise(header, 1, 60, 180);
  Frames frames;
  for (int f = 0; f < 9; ++f) {
    auto& frame = frames.emplace_back(still[0]);
    for (auto& value : frame)
      value = static_cast<std::uint8_t>(std::lround(value * (f % 3 * 0.1 + 0.9) + (f % 2) * 12 - 6));
  }
  RestoreOptions options;
  options.window = 4;
  const Frames restored = restore(model_of(config_of(4), 0), header, options, frames);
  ASSERT_EQ(restored.size(), frames.size());
  // Within a window the level is the same; from one to the next it settles. Before, frames differ by 30 levels.
  for (std::size_t f = 0; f < restored.size(); ++f)
    for (std::size_t i = 0; i < restored[f].size(); ++i) EXPECT_NEAR(restored[f][i], restored[4][i], 8) << f;
}

// Two scenes with levels of their own, flickering: each keeps its own. A window across the cut would mix the two.
TEST(Restorer, StopsAtCuts) {
  const Y4mHeader header = header_of(48, 40, Chroma::mono);
  const auto level = [](int scene, int x, int y) {
    return scene == 0 ? 70 + 40 * std::sin(x * 0.2 + y * 0.1) : 170 + 40 * std::sin(y * 0.3 - x * 0.05);
  };
  Frames frames;
  for (int f = 0; f < 21; ++f) {
    auto& frame = frames.emplace_back();
    for (int y = 0; y < 40; ++y)
      for (int x = 0; x < 48; ++x)
        frame.push_back(static_cast<std::uint8_t>(std::lround(level(f < 9 ? 0 : 1, x, y) * (1 + 0.1 * (f % 3 - 1)))));
  }
  RestoreOptions options;
  options.window = 6;
  options.damage = Damage::flicker;
  const Frames restored = restore(model_of(config_of(4), 0), header, options, frames);
  ASSERT_EQ(restored.size(), frames.size());
  for (int f = 0; f < 21; ++f)
    for (int i = 0; i < 48 * 40; i += 17)
      EXPECT_NEAR(restored[static_cast<std::size_t>(f)][static_cast<std::size_t>(i)],
                  level(f < 9 ? 0 : 1, i % 48, i / 48), 8)
          << "frame " << f;
}

TEST(Scenes, AreToldApartInSpiteOfDamage) {
  const auto picture = [](int scene, double gain, double offset, double sigma, int shift) {
    std::mt19937 random(static_cast<unsigned>(7 * scene + shift));
    std::normal_distribution<double> normal(0, 1);
    std::vector<std::uint8_t> plane;
    for (int y = 0; y < 60; ++y)
      for (int x = 0; x < 90; ++x) {
        const double clean = 128 + 50 * std::sin((x + shift) * (0.09 + 0.05 * scene) + y * (scene == 0 ? 0.12 : -0.2));
        const double value = clean * gain + offset + sigma * normal(random);
        plane.push_back(static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))));
      }
    return thumbnail_of(plane, 60, 90);
  };
  for (const double sigma : {0.0, 50.0}) {
    EXPECT_FALSE(is_cut(picture(0, 1, 0, sigma, 0), picture(0, 1, 0, sigma, 4)));
    EXPECT_FALSE(is_cut(picture(0, 0.8, 20, sigma, 0), picture(0, 1.2, -10, sigma, 4)));
    EXPECT_TRUE(is_cut(picture(0, 1, 0, sigma, 0), picture(1, 1, 0, sigma, 0)));
    // Noise alone correlates with nothing, and is no scene.
    EXPECT_FALSE(is_cut(picture(0, 0, 128, sigma, 0), picture(1, 0, 128, sigma, 0)));
  }
  // Too small to tell; of other extents; nothing.
  const std::vector<std::uint8_t> small(24 * 24, 9);
  EXPECT_FALSE(is_cut(thumbnail_of(small, 24, 24), thumbnail_of(small, 24, 24)));
  EXPECT_FALSE(is_cut({}, picture(0, 1, 0, 0, 0)));
  EXPECT_FALSE(is_cut(thumbnail_of(small, 1, 3), thumbnail_of(small, 1, 3)));
}

TEST(Restorer, TheStrengthReachesTheModel) {
  const Y4mHeader header = header_of(16, 16, Chroma::mono);
  const Frames frames = noise(header, 3, 60, 180);
  const auto model = model_of(config_of(4), 0.5f);
  RestoreOptions weak, strong, flicker;
  weak.sigma = 2;
  strong.sigma = flicker.sigma = 40;
  weak.damage = strong.damage = Damage::noise;
  flicker.damage = Damage::both;
  const Frames by_strong = restore(model, header, strong, frames);
  EXPECT_TRUE(by_strong == restore(model, header, strong, frames));
  EXPECT_FALSE(by_strong == restore(model, header, weak, frames));
  EXPECT_FALSE(by_strong == restore(model, header, flicker, frames));
}

TEST(Restorer, RefusesModelsThatDoNotRestore) {
  const Y4mHeader header = header_of(16, 16, Chroma::mono);
  const auto refuse = [&](const TransformerTemporalConfig& config, const char* where) {
    try {
      const Restorer made(TransformerTemporalModel::from_config(config, 1), header, {});
      ADD_FAILURE() << where;
    } catch (const Error& error) {
      EXPECT_NE(error.where().find(where), std::string::npos) << error.what();
    }
  };
  auto config = config_of(4);
  config.in_channels = 49;
  refuse(config, "in_channels");
  config = config_of(4);
  config.num_embeds_ada_norm = 4;
  refuse(config, "norm_type");
  config = config_of(4);
  config.norm_type = NormType::layer_norm;
  refuse(config, "norm_type");
  refuse(config_of(4, "v_prediction"), "_prediction_type");
  config = config_of(4);
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = 4;
  refuse(config, "window");
  EXPECT_EQ(default_window(config), 4);
  EXPECT_EQ(default_window(config_of(4)), 12);
}

// The process's peak since the last call, in kB.
std::int64_t peak() {
  std::ifstream status("/proc/self/status");
  std::string line;
  std::int64_t value = -1;
  while (std::getline(status, line))
    if (line.starts_with("VmHWM:")) value = std::atoll(line.c_str() + 6);
  std::ofstream("/proc/self/clear_refs") << "5";
  return value;
}

TEST(Restorer, NeedsNoMoreMemoryForALongClip) {
  const Y4mHeader header = header_of(320, 240, Chroma::c420);
  const Frames few = noise(header, 4);
  RestoreOptions options;
  options.window = 4;
  options.shifts = 1;
  options.threads = 2;
  const auto model = model_of(config_of(8), 0);
  const auto run = [&](int length) {
    Restorer restorer(model, header, options);
    std::vector<std::uint8_t> frame;
    int restored = 0;
    for (int f = 0; f < length; ++f) {
      restorer.push(few[static_cast<std::size_t>(f % 4)]);
      while (restorer.pop(frame)) ++restored;
    }
    restorer.finish();
    while (restorer.pop(frame)) ++restored;
    EXPECT_EQ(restored, length);
    return peak();
  };
  run(20);
  const std::int64_t short_clip = run(20), long_clip = run(200);
  // 180 frames more are 20 MB as bytes and 166 MB as colours; what a heap of several threads leaves unused is 1 to 7
  // MB.
  EXPECT_LT(long_clip, short_clip + 12000) << "kB";
}

}  // namespace
}  // namespace kineograph::video

// The settings of a training run: options of the command line, and what a checkpoint remembers of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kineograph/config.h"
#include "options.h"
#include "video/train/session.h"

namespace kineograph::cli {

/// Of a step.
constexpr std::int64_t kMostWindows = 65536;

/// A run's result depends on these and on the configuration, and on nothing else.
struct Settings {
  std::vector<std::string> clips;
  std::string noise_level = "5:55", damage = "0.9:0.05:0.05";
  std::int64_t steps = 20000, batch = 8, frames = 0, crop = 64, patches = 0, warmup = 200;
  double learning_rate = 1e-3, weight_decay = 0.01, clip_norm = 1, ema = 0.999;
  std::uint64_t seed = 0;
};

/// The command line of kineograph train.
struct TrainArguments {
  Settings settings;
  std::string config, init, output, dtype = "f32", engine = "auto";
  std::int64_t checkpoint_every = 500, micro_batch = 0, patience = kPatience;
  int threads = 0;
  bool resume = false;
};

/// The one table of them. `visit` takes the option's name, its help, the least and the most for a number, and the
/// value.
template <class Visit>
void each_setting(Settings& s, const Visit& visit) {
  constexpr double kMany = 1e12;
  visit("clips", "Videos to learn from: .y4m, anything ffmpeg decodes, or drawn for drawn motion. Each is as likely",
        0.0, 0.0, s.clips);
  visit("noise-level", "Deviation of the noise, from LO:HI levels of 255", 0.0, 0.0, s.noise_level);
  visit("damage", "How likely windows have NOISE:FLICKER:BOTH", 0.0, 0.0, s.damage);
  visit("steps", "Steps of the whole run", 1.0, kMany, s.steps);
  visit("batch", "Windows of a step", 1.0, kMostWindows, s.batch);
  visit("frames", "Frames of a window (default: what restore takes with this model)", 1.0, 65536.0, s.frames);
  visit("crop", "Pixels across and down a window", 1.0, 65536.0, s.crop);
  visit("patches", "Patches across and down a window, at random places of it; 0 for all that tile it", 0.0, 65536.0,
        s.patches);
  visit("learning-rate", "The highest: after the warm-up it falls as half a cosine", 0.0, 1.0, s.learning_rate);
  visit("warmup", "Steps in which the learning rate rises", 0.0, kMany, s.warmup);
  visit("weight-decay", "AdamW's decoupled decay, not of biases, norms and embeddings", 0.0, 1000.0, s.weight_decay);
  visit("clip-norm", "The gradient's largest norm; 0 for any", 0.0, kMany, s.clip_norm);
  visit("ema", "Decay of the weights' moving average, which is the model that is saved", 0.0, 1.0, s.ema);
  visit("seed", "Same seed, same run", 0.0, 0x1p63, s.seed);
}

/// The session's options. Throws CLI::ValidationError for settings that do not fit together or the model.
video::TrainingOptions training_options(const Settings& settings, const TransformerTemporalConfig& config);

}  // namespace kineograph::cli

#include "train_settings.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>

#include "messages.h"
#include "video/restore/restoration.h"

namespace kineograph::cli {

using namespace video;

namespace {

// "5:55" as numbers.
std::vector<double> parse_numbers(const std::string& option, const std::string& text, std::size_t count, double most) {
  std::vector<double> numbers;
  const char* from = text.data();
  const char* const end = from + text.size();
  while (numbers.size() < count) {
    double value = 0;
    const auto [rest, error] = std::from_chars(from, end, value);
    if (error != std::errc() || !(value >= 0 && value <= most)) break;
    numbers.push_back(value);
    from = rest;
    if (from == end || *from != ':') break;
    ++from;
  }
  if (numbers.size() != count || from != end)
    throw CLI::ValidationError("--" + option, "expected " + std::to_string(count) + " numbers from 0 to " +
                                                  with_decimals(most, 0) + " between colons, found " + text);
  return numbers;
}

BatchOptions batch_options(const Settings& settings, const TransformerTemporalConfig& config) {
  const std::int64_t patch = patch_of(config);
  BatchOptions options;
  options.config = config;
  options.patches = settings.patches;
  options.batch = settings.batch;
  options.extents = {settings.frames, settings.crop};
  options.patch = patch;
  options.seed = settings.seed;
  const auto sigma = parse_numbers("noise-level", settings.noise_level, 2, 255);
  if (sigma[0] > sigma[1])
    throw CLI::ValidationError("--noise-level", "expected LO:HI with LO at most HI, found " + settings.noise_level);
  options.damage.least_sigma = sigma[0];
  options.damage.most_sigma = sigma[1];
  const auto likely = parse_numbers("damage", settings.damage, 3, 1);
  if (likely[0] + likely[1] + likely[2] <= 0)
    throw CLI::ValidationError("--damage", "expected one that is likely, found " + settings.damage);
  std::copy(likely.begin(), likely.end(), options.damage.probabilities.begin());
  if (settings.crop % patch != 0 || settings.crop < patch)
    throw CLI::ValidationError("--crop", "expected a multiple of the model's patch, " + std::to_string(patch) +
                                             ", found " + std::to_string(settings.crop));
  return options;
}

}  // namespace

TrainingOptions training_options(const Settings& settings, const TransformerTemporalConfig& config) {
  if (settings.warmup >= settings.steps && settings.warmup > 0)
    throw CLI::ValidationError("--warmup", "expected fewer than the " + std::to_string(settings.steps) +
                                               " steps, found " + std::to_string(settings.warmup));
  TrainingOptions options;
  options.steps = settings.steps;
  options.warmup = settings.warmup;
  options.learning_rate = settings.learning_rate;
  options.clip_norm = settings.clip_norm;
  options.ema = settings.ema;
  options.adamw.weight_decay = settings.weight_decay;
  options.batches = batch_options(settings, config);
  return options;
}

}  // namespace kineograph::cli

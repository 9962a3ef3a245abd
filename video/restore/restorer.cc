#include "video/restore/restorer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <string>
#include <utility>

#include "base/threads.h"
#include "kineograph/error.h"
#include "video/restore/give_back.h"
#include "video/restore/low_frequencies.h"
#include "video/restore/refine.h"

namespace kineograph::video {
namespace {

// A hump over n places that never reaches 0; two of them n / 2 apart sum to 1.
float hump(std::int64_t place, std::int64_t n) {
  const double s = std::sin(std::numbers::pi * (static_cast<double>(place) + 0.5) / static_cast<double>(n));
  return static_cast<float>(s * s);
}

// Some of the offsets that spread grids evenly over a patch: halves of it in both directions, then quarters. Both
// halves of any power of two of them are spread evenly too.
std::vector<std::pair<std::int64_t, std::int64_t>> offsets(std::int64_t begin, std::int64_t end, std::int64_t patch) {
  constexpr std::int64_t kInEighths[16][2] = {{0, 0}, {4, 4}, {0, 4}, {4, 0}, {2, 2}, {6, 6}, {2, 6}, {6, 2},
                                              {0, 2}, {4, 6}, {0, 6}, {4, 2}, {2, 0}, {6, 4}, {2, 4}, {6, 0}};
  std::vector<std::pair<std::int64_t, std::int64_t>> all;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::pair offset{kInEighths[i][0] * patch / 8, kInEighths[i][1] * patch / 8};
    // Small patches have fewer places.
    if (std::find(all.begin(), all.end(), offset) == all.end()) all.push_back(offset);
  }
  return all;
}

SurveyOptions survey_options(const RestoreOptions& options) {
  SurveyOptions survey{.window = std::max<std::int64_t>(1, options.window),
                       .damage = options.damage,
                       .threads = options.threads,
                       .judgements = options.judgements,
                       .first = options.first,
                       .scene = options.scene};
  if (options.sigma) survey.sigma = *options.sigma * kLevel;
  return survey;
}

// Frames before and after one that its corrections look at.
constexpr std::int64_t kCorrectReach = std::max(kSteadyReach, kEnergyReach);
constexpr std::int64_t kReach = kCorrectReach + std::max(kRefineBefore, kRefineAfter);

}  // namespace

Restorer::Restorer(TransformerTemporalModel model, const Y4mHeader& header, const RestoreOptions& options)
    : model_(std::move(model)),
      header_(header),
      options_(options),
      patch_(patch_of(model_.config())),
      survey_(header, survey_options(options)),
      first_(options.first),
      scene_(options.scene),
      complete_(options.first),
      corrected_(options.first),
      finished_(options.first),
      given_(options.first) {
  predicts_noise(model_.config(), Damage::noise);  // refuses what it does not know
  const auto positions = model_.config().num_positional_embeddings;
  if (options_.window < 1 || (positions && options_.window > *positions))
    throw ArgumentError("window",
                        "at least 1 frame" + (positions ? ", at most " + std::to_string(*positions) +
                                                              ", for which the model has positions"
                                                        : std::string()),
                        std::to_string(options_.window));
  const std::int64_t half = options_.shifts / 2;
  shifts_.push_back(make_shifts(half, options_.shifts));
  if (half != 0) shifts_.push_back(make_shifts(0, half));
}

std::vector<Restorer::Shift> Restorer::make_shifts(std::int64_t begin, std::int64_t end) const {
  std::vector<Shift> shifts;
  std::vector<float> sums(static_cast<std::size_t>(patch_ * patch_), 0.0f);  // by place modulo the patch
  for (const auto& [dy, dx] : offsets(begin, end, patch_)) {
    Shift shift{dy, dx, {patch_, {}, {}}, {}};
    const auto round_up = [this](std::int64_t n) { return (n + patch_ - 1) / patch_ * patch_; };
    for (std::int64_t y = 0; y < round_up(header_.height + dy); ++y)
      shift.grid.rows.push_back(mirrored(y - dy, header_.height));
    for (std::int64_t x = 0; x < round_up(header_.width + dx); ++x)
      shift.grid.columns.push_back(mirrored(x - dx, header_.width));
    for (std::int64_t y = 0; y < patch_; ++y)
      for (std::int64_t x = 0; x < patch_; ++x) {
        shift.weights.push_back(hump(y, patch_) * hump(x, patch_));
        sums[static_cast<std::size_t>((y + patch_ - dy) % patch_ * patch_ + (x + patch_ - dx) % patch_)] +=
            shift.weights.back();
      }
    shifts.push_back(std::move(shift));
  }
  for (Shift& shift : shifts)
    for (std::int64_t y = 0; y < patch_; ++y)
      for (std::int64_t x = 0; x < patch_; ++x)
        shift.weights[static_cast<std::size_t>(y * patch_ + x)] /=
            sums[static_cast<std::size_t>((y + patch_ - shift.y) % patch_ * patch_ + (x + patch_ - shift.x) % patch_)];
  return shifts;
}

std::vector<float> Restorer::colours_of(std::span<const std::uint8_t> planes) const {
  std::vector<float> rgb(static_cast<std::size_t>(3 * header_.width * header_.height));
  frame_to_rgb(planes, header_, rgb.data());
  return rgb;
}

std::vector<float> Restorer::input_of(const Frame& frame) const {
  std::vector<float> rgb = colours_of(frame.planes);
  for (float& value : rgb) value = value * frame.scale + frame.offset;
  return rgb;
}

void Restorer::push(std::span<const std::uint8_t> planes) {
  frames_.emplace_back().planes.assign(planes.begin(), planes.end());
  take(survey_.push(planes));
}

void Restorer::finish() { take(survey_.finish()); }

bool Restorer::pop(std::vector<std::uint8_t>& planes) {
  if (given_ >= finished_) return false;
  planes = std::move(frame(given_++).restored);
  // Frames around those to come are kept.
  while (first_ < given_ && (first_ < finished_ - kReach || first_ < scene_)) {
    frames_.pop_front();
    ++first_;
  }
  return true;
}

void Restorer::take(const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    if (step.window) {
      const Window& window = *step.window;
      const std::int64_t fresh = window.start + window.count - window.fresh;
      findings_.push_back({window.fresh, fresh, step.judgement});
      const double before = done_;
      if (step.judgement.damage)
        restore(window, step.judgement);
      else
        copy(window);
      done_ = before + static_cast<double>(fresh);
    }
    complete(step.complete);
    correct(step.ends_scene ? complete_ : complete_ - kCorrectReach);
    finish(step.ends_scene ? corrected_ : corrected_ - kRefineAfter);
    if (step.ends_scene) scene_ = complete_;
    if (on_progress_) on_progress_(done_);
  }
}

void Restorer::copy(const Window& window) {
  for (std::int64_t f = 0; f < window.count; ++f) frame(window.start + f).copied += hump(f, window.count);
}

Restorer::Task Restorer::task_of(const Window& window, const Judgement& judgement) {
  std::vector<Moments> moments(static_cast<std::size_t>(window.count));
  parallel_for(window.count, thread_count(options_.threads), [&](std::int64_t f) {
    moments[static_cast<std::size_t>(f)] = moments_of(colours_of(frame(window.start + f).planes));
  });
  const Damage damage = *judgement.damage;
  const Normalisation normalisation = normalise(damage, moments, judgement.level);
  Task task{window, judgement, damage, normalisation.frames, {}, predicts_noise(model_.config(), damage)};
  for (std::int64_t f = 0; f < window.count; ++f) {
    Moments level = normalisation.level;
    const Moments& own = normalisation.frames[static_cast<std::size_t>(f)];
    if (has_flicker(damage))
      level.mean += judgement.slope * (static_cast<double>(f) - static_cast<double>(window.count - 1) / 2);
    Frame& changed = frame(window.start + f);
    const double change = level.deviation / own.deviation;
    changed.damage = damage;
    changed.scale = static_cast<float>(change);
    changed.offset = static_cast<float>(level.mean - own.mean * change);
    changed.noise = static_cast<float>(judgement.sigma * change);
    changed.white = judgement.coarseness < kAlike;
    changed.sum.resize(static_cast<std::size_t>(3 * header_.width * header_.height), 0.0f);
    task.levels.push_back(level);
  }
  return task;
}

void Restorer::restore(const Window& window, const Judgement& judgement) {
  const Task task = task_of(window, judgement);
  const float timestep = has_noise(task.damage) ? timestep_of(judgement.sigma, task.levels.front()) : 0.0f;
  const auto label = static_cast<std::int64_t>(task.damage);
  ForwardOptions forward;
  forward.num_frames = window.count;
  forward.timestep = TensorView(&timestep, {1});
  forward.class_labels = TensorView(&label, {1});
  forward.num_threads = options_.threads;
  if (task.noise) add_input(window);
  const std::vector<Shift>& shifts = shifts_[static_cast<std::size_t>(window.number) % shifts_.size()];
  for (const Shift& shift : shifts) {
    add_shift(shift, task, forward);
    done_ += static_cast<double>(window.start + window.count - window.fresh) / static_cast<double>(shifts.size());
    if (on_progress_) on_progress_(done_);
  }
  for (std::int64_t f = 0; f < window.count; ++f) frame(window.start + f).weight += hump(f, window.count);
}

void Restorer::complete(std::int64_t end) {
  parallel_for(end - complete_, thread_count(options_.threads),
               [&](std::int64_t f) { complete(frame(complete_ + f)); });
  complete_ = end;
}

void Restorer::complete(Frame& done) const {
  if (done.weight == 0) return;
  // Windows that found nothing wrong copy the frame.
  if (done.copied > 0) {
    const std::vector<float> rgb = colours_of(done.planes);
    for (std::size_t i = 0; i < rgb.size(); ++i) done.sum[i] += done.copied * rgb[i];
    done.weight += done.copied;
  }
  for (float& value : done.sum) value /= done.weight;
  if (!options_.corrections) return;
  const std::vector<float> input = input_of(done);
  const bool patches = predicts_noise(model_.config(), Damage::noise);
  if (!has_noise(done.damage)) {
    if (patches) change_low_frequencies_only(input, header_.height, header_.width, done.sum);
    return;
  }
  if (patches) keep_low_frequencies(input, static_cast<double>(done.noise), header_.height, header_.width, done.sum);
  done.energy = taken_energy(input, done.sum, header_.height, header_.width);
  if (patches && done.noise > 0) {
    done.bands = Bands(done.sum, header_.height, header_.width);
    done.sum = {};
  }
}

void Restorer::correct(std::int64_t end) {
  if (end <= corrected_) return;
  parallel_for(end - corrected_, thread_count(options_.threads),
               [&](std::int64_t f) { correct_frame(corrected_ + f); });
  corrected_ = end;
}

void Restorer::correct_frame(std::int64_t number) {
  Frame& done = frame(number);
  if (done.energy.empty()) return;
  const std::int64_t begin = std::max(scene_, first_);
  const auto sigma = static_cast<double>(done.noise);
  if (!done.bands.empty()) {
    std::vector<const Bands*> around;
    for (std::int64_t f = std::max(begin, number - kSteadyReach); f < std::min(complete_, number + kSteadyReach + 1);
         ++f)
      if (!frame(f).bands.empty()) around.push_back(&frame(f).bands);
    done.sum = done.bands.steadied(around, sigma);
  }
  std::vector<const std::vector<float>*> around;
  for (std::int64_t f = number - kEnergyReach; f <= number + kEnergyReach; ++f)
    around.push_back(f < begin || f >= complete_ || frame(f).energy.empty() ? nullptr : &frame(f).energy);
  give_back(input_of(done), around, sigma, done.sum);
}

void Restorer::finish(std::int64_t end) {
  if (end <= finished_) return;
  parallel_for(end - finished_, thread_count(options_.threads), [&](std::int64_t f) { finish_frame(finished_ + f); });
  finished_ = end;
}

void Restorer::finish_frame(std::int64_t number) {
  Frame& done = frame(number);
  if (done.weight == 0) {
    done.restored = done.planes;
    return;
  }
  done.restored.resize(done.planes.size());
  rgb_to_frame(done.bands.empty() || !done.white ? done.sum.data() : refined_frame(number).data(), header_,
               done.restored);
}

std::vector<float> Restorer::refined_frame(std::int64_t number) {
  const auto fits = [this](std::int64_t f) { return !frame(f).bands.empty(); };
  std::int64_t begin = number, end = number + 1;
  while (begin > std::max({scene_, first_, number - kRefineBefore}) && fits(begin - 1)) --begin;
  while (end < std::min(corrected_, number + kRefineAfter + 1) && fits(end)) ++end;
  std::vector<std::vector<float>> inputs;
  std::vector<const std::vector<float>*> noisy, restored;
  for (std::int64_t f = begin; f < end; ++f) inputs.push_back(input_of(frame(f)));
  for (std::int64_t f = begin; f < end; ++f) {
    noisy.push_back(&inputs[static_cast<std::size_t>(f - begin)]);
    restored.push_back(&frame(f).sum);
  }
  return refined(noisy, restored, static_cast<std::size_t>(number - begin), static_cast<double>(frame(number).noise),
                 header_.height, header_.width);
}

void Restorer::add_input(const Window& window) {
  parallel_for(window.count, thread_count(options_.threads), [&](std::int64_t f) {
    Frame& added = frame(window.start + f);
    const std::vector<float> rgb = input_of(added);
    const float weight = hump(f, window.count);
    for (std::size_t i = 0; i < rgb.size(); ++i) added.sum[i] += weight * rgb[i];
  });
}

void Restorer::add_shift(const Shift& shift, const Task& task, const ForwardOptions& forward) {
  const std::int64_t start = task.window.start, count = task.window.count;
  const std::int64_t channels = 3 * patch_ * patch_, down = shift.grid.height(), across = shift.grid.width();
  const std::int64_t values = channels * down * across;
  // One buffer for all shifts and windows, as large as the largest.
  if (!latents_ || latents_.numel() < count * values) latents_ = Tensor(DType::f32, {count * values});
  float* const latents = latents_.data_as<float>();
  const MutableTensorView window(latents, {count, channels, down, across});
  const int threads = thread_count(options_.threads);

  parallel_for(count, threads, [&](std::int64_t f) {
    const std::vector<float> rgb = colours_of(frame(start + f).planes);
    const Moments& moments = task.frames[static_cast<std::size_t>(f)];
    fold(rgb.data(), header_.height, header_.width, shift.grid, static_cast<float>(1 / moments.deviation),
         static_cast<float>(-moments.mean / moments.deviation), latents + f * values);
  });
  model_.forward(window, window, forward);
  parallel_for(count, threads, [&](std::int64_t f) {
    const Moments& level = task.levels[static_cast<std::size_t>(f)];
    const auto scale = static_cast<float>(task.noise ? -level.deviation : level.deviation);
    const auto mean = static_cast<float>(task.noise ? 0 : level.mean);
    float* const sum = frame(start + f).sum.data();
    const float* sample = latents + f * values;
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      const std::int64_t colour = channel / (patch_ * patch_), in_y = channel / patch_ % patch_,
                         in_x = channel % patch_;
      const float weight = hump(f, count) * shift.weights[static_cast<std::size_t>(in_y * patch_ + in_x)];
      for (std::int64_t row = 0; row < down; ++row, sample += across) {
        const std::int64_t y = row * patch_ + in_y - shift.y;
        if (y < 0 || y >= header_.height) continue;
        float* const line = sum + (colour * header_.height + y) * header_.width;
        for (std::int64_t column = 0; column < across; ++column) {
          const std::int64_t x = column * patch_ + in_x - shift.x;
          if (x >= 0 && x < header_.width) line[x] += weight * (sample[column] * scale + mean);
        }
      }
    }
  });
}

std::int64_t first_frame(std::int64_t begin, std::int64_t scene, std::int64_t window) {
  // Frames that corrections look back on, and the windows that those are in.
  const std::int64_t needed = std::max(scene, begin - kReach - window);
  return scene + (needed - scene) / stride_of(window) * stride_of(window);
}

}  // namespace kineograph::video

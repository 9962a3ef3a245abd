#include "video/restore/restorer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <string>
#include <utility>

#include "base/threads.h"
#include "kineograph/error.h"
#include "video/restore/low_frequencies.h"

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

}  // namespace

Restorer::Restorer(TransformerTemporalModel model, const Y4mHeader& header, const RestoreOptions& options)
    : model_(std::move(model)), header_(header), options_(options), patch_(patch_of(model_.config())) {
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

void Restorer::push(std::span<const std::uint8_t> planes) {
  Thumbnail seen = thumbnail_of(planes, header_.height, header_.width);  // luma comes first
  if (is_cut(seen_, seen)) finish();
  seen_ = std::move(seen);
  frames_.emplace_back().planes.assign(planes.begin(), planes.end());
  if (first_ + static_cast<std::int64_t>(frames_.size()) < next_window_ + options_.window) return;
  restore_window(next_window_, options_.window);
  // A scene that ends before the next window is whole has its last window begin earlier than that, but later than this.
  complete(next_window_ + 1);
  // A quarter is enough to fade over; what it costs is better spent on grids.
  next_window_ += std::max<std::int64_t>(1, options_.window * 3 / 4);
}

void Restorer::finish() {
  const std::int64_t total = first_ + static_cast<std::int64_t>(frames_.size());
  if (restored_ < total) {
    const std::int64_t start = std::max(scene_, total - options_.window);
    restore_window(start, total - start);
  }
  complete(total);
  // Another scene has another level, and nothing to do with the frame before it.
  scene_ = next_window_ = total;
  level_ = {};
  before_.clear();
}

bool Restorer::pop(std::vector<std::uint8_t>& planes) {
  if (first_ >= complete_) return false;
  planes = std::move(frames_.front().planes);
  frames_.pop_front();
  ++first_;
  return true;
}

void Restorer::judge(std::int64_t begin, std::int64_t end) {
  std::vector<double> noise(static_cast<std::size_t>(end - begin));
  parallel_for(end - begin, thread_count(options_.threads), [&](std::int64_t f) {
    Frame& judged = frame(begin + f);
    const std::vector<float> rgb = colours_of(judged.planes);
    judged.moments = moments_of(rgb);
    const std::vector<std::uint8_t>& before = f == 0 ? before_ : frame(begin + f - 1).planes;
    noise[static_cast<std::size_t>(f)] =
        noise_deviation(rgb, before.empty() ? std::vector<float>() : colours_of(before), header_.height, header_.width);
  });
  for (std::int64_t f = begin; f < end; ++f)
    estimate_.add(noise[static_cast<std::size_t>(f - begin)], frame(f).moments, header_.height * header_.width);
  before_ = frame(end - 1).planes;
}

void Restorer::restore_window(std::int64_t start, std::int64_t count) {
  const std::int64_t fresh = std::max(restored_, start), end = start + count;
  judge(fresh, end);
  restored_ = end;
  std::vector<Moments> moments;
  for (std::int64_t f = start; f < end; ++f) moments.push_back(frame(f).moments);
  const Moments level =
      level_.update(std::span<const Moments>(moments).subspan(static_cast<std::size_t>(fresh - start)), moments);

  const double sigma = options_.sigma ? *options_.sigma * kLevel : estimate_.sigma();
  sigma_ = sigma / kLevel;
  damage_ = options_.damage.value_or(estimate_.damage());
  const Normalisation normalisation = normalise(damage_, moments, level);
  const float timestep = has_noise(damage_) ? timestep_of(sigma, normalisation.level) : 0.0f;
  const auto label = static_cast<std::int64_t>(damage_);
  ForwardOptions forward;
  forward.num_frames = count;
  forward.timestep = TensorView(&timestep, {1});
  forward.class_labels = TensorView(&label, {1});
  forward.num_threads = options_.threads;
  for (std::int64_t f = 0; f < count; ++f) {
    Frame& changed = frame(start + f);
    const Moments& own = normalisation.frames[static_cast<std::size_t>(f)];
    const double change = normalisation.level.deviation / own.deviation;
    changed.damage = damage_;
    changed.scale = static_cast<float>(change);
    changed.offset = static_cast<float>(normalisation.level.mean - own.mean * change);
    changed.noise = static_cast<float>(sigma * change);
    changed.sum.resize(static_cast<std::size_t>(3 * header_.width * header_.height), 0.0f);
  }
  if (predicts_noise(model_.config(), damage_)) add_input(start, count);
  for (const Shift& shift : shifts_[windows_++ % shifts_.size()])
    add_shift(shift, start, count, normalisation, forward);
  for (std::int64_t f = 0; f < count; ++f) frame(start + f).weight += hump(f, count);
}

void Restorer::complete(std::int64_t end) {
  const bool corrects = options_.correct_frequencies && predicts_noise(model_.config(), Damage::noise);
  const std::int64_t begin = complete_;
  parallel_for(end - begin, thread_count(options_.threads), [&](std::int64_t f) {
    Frame& done = frame(begin + f);
    for (float& value : done.sum) value /= done.weight;
    if (corrects) correct(done);
    rgb_to_frame(done.sum.data(), header_, done.planes);
  });
  complete_ = end;
}

void Restorer::correct(Frame& frame) const {
  std::vector<float> rgb = colours_of(frame.planes);
  for (float& value : rgb) value = value * frame.scale + frame.offset;
  if (has_noise(frame.damage))
    keep_low_frequencies(rgb, static_cast<double>(frame.noise), header_.height, header_.width, frame.sum);
  else
    change_low_frequencies_only(rgb, header_.height, header_.width, frame.sum);
}

void Restorer::add_input(std::int64_t start, std::int64_t count) {
  parallel_for(count, thread_count(options_.threads), [&](std::int64_t f) {
    Frame& added = frame(start + f);
    const std::vector<float> rgb = colours_of(added.planes);
    const float weight = hump(f, count);
    for (std::size_t i = 0; i < rgb.size(); ++i) added.sum[i] += weight * (rgb[i] * added.scale + added.offset);
  });
}

void Restorer::add_shift(const Shift& shift, std::int64_t start, std::int64_t count, const Normalisation& normalisation,
                         const ForwardOptions& forward) {
  const std::int64_t channels = 3 * patch_ * patch_, down = shift.grid.height(), across = shift.grid.width();
  const std::int64_t values = channels * down * across;
  // One buffer for all shifts and windows, as large as the largest.
  if (!latents_ || latents_.numel() < count * values) latents_ = Tensor(DType::f32, {count * values});
  float* const latents = latents_.data_as<float>();
  const MutableTensorView window(latents, {count, channels, down, across});
  const int threads = thread_count(options_.threads);

  parallel_for(count, threads, [&](std::int64_t f) {
    const std::vector<float> rgb = colours_of(frame(start + f).planes);
    const Moments& moments = normalisation.frames[static_cast<std::size_t>(f)];
    fold(rgb.data(), header_.height, header_.width, shift.grid, static_cast<float>(1 / moments.deviation),
         static_cast<float>(-moments.mean / moments.deviation), latents + f * values);
  });
  model_.forward(window, window, forward);
  const bool noise = predicts_noise(model_.config(), damage_);
  const auto scale = static_cast<float>(noise ? -normalisation.level.deviation : normalisation.level.deviation);
  const auto mean = static_cast<float>(noise ? 0 : normalisation.level.mean);
  parallel_for(count, threads, [&](std::int64_t f) {
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

}  // namespace kineograph::video

#include "video/train/batch.h"

#include <algorithm>
#include <span>

#include "video/latents.h"

namespace kineograph::video {
namespace {

// Colours of 8-bit levels.
void to_colours(std::span<const std::uint8_t> levels, std::vector<float>& colours) {
  colours.resize(levels.size());
  for (std::size_t i = 0; i < levels.size(); ++i) colours[i] = to_colour(levels[i]);
}

// The rows or columns that patches show.
std::vector<std::int64_t> draw_lines(Random& random, const BatchOptions& options) {
  std::vector<std::int64_t> lines;
  for (std::int64_t i = 0; i < options.side(); ++i) {
    const std::int64_t first =
        options.patches != 0 ? random.below(options.extents.crop - options.patch + 1) : i * options.patch;
    for (std::int64_t line = 0; line < options.patch; ++line) lines.push_back(first + line);
  }
  return lines;
}

}  // namespace

Batch make_batch(const std::vector<std::shared_ptr<const WindowSource>>& sources, const BatchOptions& options,
                 std::int64_t step) {
  return make_part(sources, options, step, 0, options.batch);
}

Batch make_part(const std::vector<std::shared_ptr<const WindowSource>>& sources, const BatchOptions& options,
                std::int64_t step, std::int64_t first, std::int64_t count) {
  const std::int64_t frames = options.extents.frames, crop = options.extents.crop;
  const std::int64_t channels = 3 * options.patch * options.patch, side = options.side();
  const Shape shape{count * frames, channels, side, side};
  Batch batch{Tensor(DType::f32, shape),
              Tensor(DType::f32, shape),
              Tensor(DType::f32, {count}),
              Tensor(DType::i64, {count}),
              {},
              options.batch};
  const std::int64_t each = channels * side * side;
  const auto values = static_cast<std::size_t>(options.extents.frame_values());
  std::vector<std::uint8_t> clean(static_cast<std::size_t>(options.extents.values())), damaged(clean.size());
  std::vector<float> colours;
  for (std::int64_t b = 0; b < count; ++b) {
    Random random(options.seed, {static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(first + b)});
    const auto& source = sources[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(sources.size())))];
    source->draw(random, options.extents, clean);
    augment(random, options.extents, clean);
    const AppliedDamage applied = apply_damage(random, options.damage, frames, clean, damaged);
    const PatchGrid grid{options.patch, draw_lines(random, options), draw_lines(random, options)};

    std::vector<Moments> moments;
    const auto frame_of = [&](const std::vector<std::uint8_t>& window, std::int64_t f) {
      return std::span<const std::uint8_t>(window).subspan(static_cast<std::size_t>(f) * values, values);
    };
    for (std::int64_t f = 0; f < frames; ++f) {
      to_colours(frame_of(damaged, f), colours);
      moments.push_back(moments_of(colours));
    }
    const Normalisation normalisation = normalise(applied.damage, moments, applied.level);
    for (std::int64_t f = 0; f < frames; ++f) {
      const auto put = [&](const std::vector<std::uint8_t>& window, const Moments& by, Tensor& to) {
        to_colours(frame_of(window, f), colours);
        fold(colours.data(), crop, crop, grid, static_cast<float>(1 / by.deviation),
             static_cast<float>(-by.mean / by.deviation), to.data_as<float>() + (b * frames + f) * each);
      };
      put(damaged, normalisation.frames[static_cast<std::size_t>(f)], batch.hidden_states);
      put(clean, normalisation.level, batch.target);
    }
    if (predicts_noise(options.config, applied.damage)) {
      const float* hidden = batch.hidden_states.data_as<float>() + b * frames * each;
      float* target = batch.target.data_as<float>() + b * frames * each;
      for (std::int64_t i = 0; i < frames * each; ++i) target[i] = hidden[i] - target[i];
    }
    batch.timestep.data_as<float>()[b] = timestep_of(applied.sigma, normalisation.level);
    batch.class_labels.data_as<std::int64_t>()[b] = static_cast<std::int64_t>(applied.damage);
    const double unit = normalisation.level.deviation /
                        std::max(applied.sigma, has_flicker(applied.damage) ? kFlickerLossUnit : kLeastLossUnit);
    batch.weights.push_back(unit * unit);
  }
  return batch;
}

double squared_error(const Batch& batch, const Tensor& sample, Tensor& gradient) {
  const float* out = sample.data_as<float>();
  const float* target = batch.target.data_as<float>();
  float* to = gradient.data_as<float>();
  const std::int64_t each = sample.numel() / static_cast<std::int64_t>(batch.weights.size());
  const std::int64_t count = each * batch.of_windows;
  double loss = 0;
  for (const double weight : batch.weights) {
    const auto slope = static_cast<float>(2 * weight / static_cast<double>(count));
    double squares = 0;
    for (std::int64_t i = 0; i < each; ++i) {
      const float error = *out++ - *target++;
      squares += static_cast<double>(error) * error;
      *to++ = slope * error;
    }
    loss += weight * squares;
  }
  return loss / static_cast<double>(count);
}

}  // namespace kineograph::video

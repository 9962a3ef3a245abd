#include "engine/cpu/call/statistics.h"

#include <cmath>

#include "base/half.h"
#include "engine/cpu/pack/parallel.h"
#include "engine/epsilons.h"

namespace kineograph::engine::cpu {
namespace {

/// Moments of `channels` channels, from `channel` on, of a row of pixels of a frame.
Moments row_moments(const Call& call, const Target& target, std::size_t frame, std::size_t channel,
                    std::size_t channels, std::size_t h) {
  const Image& image = call.input;
  const auto at = [](std::size_t i) { return static_cast<std::int64_t>(i); };
  const std::int64_t offset = at(frame) * image.stride_n + at(channel) * image.stride_c + at(h) * image.stride_h;
  const std::byte* pixels = image.data + offset * static_cast<std::int64_t>(size_of(image.dtype));
  if (image.stride_w == 1) return target.moments(pixels, image.dtype, call.width, channels, image.stride_c);
  std::vector<float> row(channels * call.width);
  dispatch_floating(image.dtype, [&]<class T>(T) {
    const T* from = reinterpret_cast<const T*>(pixels);
    for (std::size_t c = 0; c < channels; ++c)
      for (std::size_t w = 0; w < call.width; ++w)
        row[c * call.width + w] = to_float(from[at(c) * image.stride_c + at(w) * image.stride_w]);
  });
  return target.moments(row.data(), DType::f32, call.width, channels, at(call.width));
}

}  // namespace

void take_moments(const Call& call, const Target& target, int threads, GroupNormTables& tables) {
  const auto groups = static_cast<std::size_t>(call.model->config.norm_num_groups);
  const std::size_t per_group = call.model->channels / groups, frames = call.group_set_per_frame ? 1 : call.frames;
  tables.rows.assign(call.group_sets() * call.height * groups, {});
  for_each_index(threads, call.group_sets() * groups, [&](std::size_t i) {
    const std::size_t set = i / groups, group = i % groups;
    for (std::size_t f = 0; f < frames; ++f)
      for (std::size_t h = 0; h < call.height; ++h)
        append(tables.rows[(set * call.height + h) * groups + group],
               row_moments(call, target, set * frames + f, group * per_group, per_group, h));
  });
}

void make_tables(const Call& call, bool affine, GroupNormTables& tables) {
  const PackedModel& model = *call.model;
  const auto groups = static_cast<std::size_t>(model.config.norm_num_groups);
  const std::size_t channels = model.channels, per_group = channels / groups, sets = call.group_sets();
  tables.mean.resize(sets * channels);
  tables.scale.resize(sets * channels);
  tables.shift.resize(sets * channels);
  for (std::size_t set = 0; set < sets; ++set)
    for (std::size_t g = 0; g < groups; ++g) {
      Moments all;
      for (std::size_t h = 0; h < call.picture_rows(); ++h)
        append(all, tables.rows[(set * call.picture_rows() + h) * groups + g]);
      const double inverse = 1.0 / std::sqrt(all.m2 / all.count + kGroupNormEpsilon);
      // The mean is subtracted in two parts, so that a large one costs no digits.
      const auto high = static_cast<float>(all.mean);
      const double low = all.mean - static_cast<double>(high);
      for (std::size_t c = g * per_group; c < (g + 1) * per_group; ++c) {
        const double scale = affine ? static_cast<double>(model.norm_weight[c]) * inverse : inverse;
        const double bias = affine ? static_cast<double>(model.norm_bias[c]) : 0.0;
        tables.mean[set * channels + c] = high;
        tables.scale[set * channels + c] = static_cast<float>(scale);
        tables.shift[set * channels + c] = static_cast<float>(bias - low * scale);
      }
    }
}

}  // namespace kineograph::engine::cpu

#include "engine/cpu/call/statistics.h"

#include <cmath>

#include "base/half.h"
#include "engine/cpu/pack/parallel.h"
#include "engine/epsilons.h"

namespace kineograph::engine::cpu {
namespace {

/// Moments of one channel of one frame.
Moments plane_moments(const Call& call, const Target& target, std::int64_t offset) {
  const Image& image = call.input;
  const auto size = static_cast<std::int64_t>(size_of(image.dtype));
  const auto height = static_cast<std::int64_t>(call.height), width = static_cast<std::int64_t>(call.width);
  const std::byte* plane = image.data + offset * size;
  if (image.stride_w == 1 && (image.stride_h == width || height == 1))
    return target.moments(plane, image.dtype, call.pixels);
  Moments all;
  std::vector<float> row(call.width);
  for (std::int64_t h = 0; h < height; ++h) {
    dispatch_floating(image.dtype, [&]<class T>(T) {
      const T* from = reinterpret_cast<const T*>(plane) + h * image.stride_h;
      for (std::int64_t w = 0; w < width; ++w) row[static_cast<std::size_t>(w)] = to_float(from[w * image.stride_w]);
    });
    append(all, target.moments(row.data(), DType::f32, row.size()));
  }
  return all;
}

}  // namespace

void compute_group_norm(const Call& call, const Target& target, bool affine, int threads, GroupNormTables& tables) {
  const PackedModel& model = *call.model;
  const auto groups = static_cast<std::size_t>(model.config.norm_num_groups);
  const std::size_t channels = model.channels, per_group = channels / groups;
  const std::size_t rows = call.videos * call.frames;
  tables.moments.resize(rows * groups);
  for_each_index(threads, rows * groups, [&](std::size_t i) {
    Moments all;
    for (std::size_t c = i % groups * per_group; c < (i % groups + 1) * per_group; ++c)
      append(all, plane_moments(call, target,
                                static_cast<std::int64_t>(i / groups) * call.input.stride_n +
                                    static_cast<std::int64_t>(c) * call.input.stride_c));
    tables.moments[i] = all;
  });
  const std::size_t frames_per_set = call.group_set_per_frame ? 1 : call.frames;
  const std::size_t sets = rows / frames_per_set;
  tables.mean.resize(sets * channels);
  tables.scale.resize(sets * channels);
  tables.shift.resize(sets * channels);
  for (std::size_t set = 0; set < sets; ++set)
    for (std::size_t g = 0; g < groups; ++g) {
      Moments all;
      for (std::size_t f = 0; f < frames_per_set; ++f)
        append(all, tables.moments[(set * frames_per_set + f) * groups + g]);
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

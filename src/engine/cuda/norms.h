// GroupNorm's statistics and the blocks' LayerNorm.
#pragma once

#include "engine/cuda/arguments.h"
#include "engine/cuda/instructions.h"

namespace kineograph::engine::cuda {

constexpr int kMomentsThreads = 256;
constexpr int kNormThreads = 128;  ///< four tokens a block

/// The same sum in every lane.
KINEOGRAPH_DEVICE float warp_sum(float v) {
  for (int mask = 16; mask != 0; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}
/// The same sum in every thread, in the order of the warps. `places` holds a float a warp.
KINEOGRAPH_DEVICE float block_sum(float v, float* places) {
  v = warp_sum(v);
  block_sync();  // all have read what it held
  if (thread_x() % 32 == 0) places[thread_x() / 32] = v;
  block_sync();
  float sum = 0.0f;
  for (int w = 0; w < kMomentsThreads / 32; ++w) sum += places[w];
  return sum;
}

/// In two passes; the second corrects the mean by what the distances from it add up to.
template <class In>
KINEOGRAPH_KERNEL(kMomentsThreads)
moments_kernel(const MomentsArguments p) {
  KINEOGRAPH_SHARED(memory);
  float* const places = reinterpret_cast<float*>(memory);
  const In* const x = static_cast<const In*>(p.image) + block_x() * p.count;
  float sum = 0.0f;
  for (std::int64_t i = thread_x(); i < p.count; i += kMomentsThreads) sum += widen(x[i]);
  const float mean = block_sum(sum, places) / static_cast<float>(p.count);
  float distance = 0.0f, squares = 0.0f;
  for (std::int64_t i = thread_x(); i < p.count; i += kMomentsThreads) {
    const float d = widen(x[i]) - mean;
    distance += d;
    squares += d * d;
  }
  const double off = block_sum(distance, places), square = block_sum(squares, places);
  if (thread_x() != 0) return;
  const auto count = static_cast<double>(p.count);
  p.moments[block_x()] = {mean + off / count, square - off * off / count};
}

/// A thread a group of a set; rows are combined as Chan, Golub and LeVeque do.
template <class Sum>
KINEOGRAPH_KERNEL(kNormThreads)
statistics_kernel(const StatisticsArguments p) {
  const std::int64_t i = block_x() * kNormThreads + thread_x();
  if (i >= static_cast<std::int64_t>(p.sets) * p.groups) return;
  const Moments* const first = p.moments + i / p.groups * p.rows * p.groups + i % p.groups;
  Sum mean = 0, squares = 0;
  for (int r = 0; r < p.rows; ++r) {
    const Moments& more = first[static_cast<std::int64_t>(r) * p.groups];
    const Sum delta = more.mean - mean;
    mean += delta / (r + 1);
    squares += more.squares + delta * delta * p.count * r / (r + 1);
  }
  const Sum variance = squares / (p.count * p.rows);
  const auto high = static_cast<float>(mean);
  p.statistics[i] = {high, static_cast<float>(mean - high), static_cast<float>(1.0 / sqrt(variance + p.epsilon))};
}

/// A warp a token, in two passes.
template <class T>
KINEOGRAPH_KERNEL(kNormThreads)
layer_norm_kernel(const LayerNormArguments p) {
  const int lane = thread_x() % 32;
  const std::int64_t token = block_x() * (kNormThreads / 32) + thread_x() / 32;
  if (token >= p.tokens) return;
  const float* const x = p.x + token * p.width;
  float sum = 0.0f, squares = 0.0f;
  for (int c = 2 * lane; c < p.width; c += 64) {
    const Pair v = read_pair(x + c);
    sum += v.low + v.high;
  }
  const float mean = warp_sum(sum) / static_cast<float>(p.width);
  for (int c = 2 * lane; c < p.width; c += 64) {
    const Pair v = read_pair(x + c);
    squares += (v.low - mean) * (v.low - mean) + (v.high - mean) * (v.high - mean);
  }
  const float scale = rsqrt_of(warp_sum(squares) / static_cast<float>(p.width) + p.epsilon);
  const float* const position = p.positions == nullptr ? nullptr : p.positions + token / p.pixels * p.width;
  for (int c = 2 * lane; c < p.width; c += 64) {
    const Pair v = read_pair(x + c);
    Pair y = {(v.low - mean) * scale, (v.high - mean) * scale};
    if (p.gamma != nullptr) {
      const Pair gamma = read_pair(p.gamma + c), beta = read_pair(p.beta + c);
      y = {y.low * gamma.low + beta.low, y.high * gamma.high + beta.high};
    }
    if (position != nullptr) {
      const Pair more = read_pair(position + c);
      y = {y.low + more.low, y.high + more.high};
    }
    write_pair(static_cast<T*>(p.y) + token * p.width + c, y);
  }
}

}  // namespace kineograph::engine::cuda

#include "engine/context_windows.h"

#include <algorithm>

#include "base/half.h"

namespace kineograph::engine {
namespace {

/// Of frame i, before rounding.
double frame_weight(std::int64_t i, std::int64_t length, ContextWeighting weighting) {
  const std::int64_t middle = (length + 1) / 2;
  const auto number = [](std::int64_t n) { return static_cast<double>(n); };
  switch (weighting) {
    case ContextWeighting::flat:
      return 1.0;
    case ContextWeighting::pyramid:
      return number(std::min(i + 1, length - i));
    case ContextWeighting::delayed_reverse_sawtooth:
      return i < middle - 1 ? 0.01 : number(std::min(middle, length - i));
  }
  return 1.0;
}

double rounded(double value, DType dtype) {
  const auto narrow = static_cast<float>(value);
  if (dtype == DType::bf16) return static_cast<double>(to_float(from_float<bf16>(narrow)));
  if (dtype == DType::f16) return static_cast<double>(to_float(from_float<f16>(narrow)));
  return static_cast<double>(narrow);
}

std::vector<ContextWindow> cut(std::int64_t frames, std::int64_t length, std::int64_t stride) {
  std::vector<ContextWindow> windows;
  std::int64_t end = 0;
  for (std::int64_t first = 0; first + length <= frames; first += stride) {
    windows.push_back({first, end - first, 0});
    end = first + length;
  }
  if (end < frames) windows.push_back({frames - length, end - frames + length, end - frames + length});
  return windows;
}

}  // namespace

std::vector<double> frame_weights(std::int64_t length, ContextWeighting weighting, DType dtype) {
  std::vector<double> weights;
  for (std::int64_t i = 0; i < length; ++i) weights.push_back(rounded(frame_weight(i, length, weighting), dtype));
  return weights;
}

ContextWindows context_windows(const ContextOptions& context, std::int64_t frames, DType dtype) {
  ContextWindows made;
  made.length = context.length;
  if (frames == context.length) return made;
  made.windows = cut(frames, context.length, context.stride);
  const std::vector<double> weights = frame_weights(context.length, context.weighting, dtype);
  const auto at = [&](std::int64_t i) { return weights[static_cast<std::size_t>(i)]; };
  std::vector<double> totals(static_cast<std::size_t>(frames));
  for (const ContextWindow& window : made.windows)
    for (std::int64_t i = window.counted; i < context.length; ++i)
      totals[static_cast<std::size_t>(window.first + i)] += at(window.counted == 0 ? i : window.counted);
  for (const ContextWindow& window : made.windows)
    for (std::int64_t i = 0; i < context.length; ++i)
      made.shares.push_back(i < window.counted ? 0.0 : at(i) / totals[static_cast<std::size_t>(window.first + i)]);
  return made;
}

}  // namespace kineograph::engine

// Statistics that a few large values do not move.
#pragma once

#include <algorithm>
#include <vector>

namespace kineograph::video {

/// The median of |x| for a normal x of deviation 1.
constexpr double kMedianOfNormal = 0.6745;

/// The middle one of the values, the upper of two; 0 of none.
inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace kineograph::video

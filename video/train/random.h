// Random draws that depend on a seed and a place only: batch i of a run is the same whatever was drawn before it, on
// every machine and with every standard library.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "base/splitmix.h"

namespace kineograph::video {

/// SplitMix64.
class Random {
 public:
  /// The stream that belongs to `seed` and a place, such as a step and a number in its batch.
  Random(std::uint64_t seed, std::initializer_list<std::uint64_t> place) : state_(seed) {
    for (const std::uint64_t coordinate : place)
      state_ = split_mix(state_ + kSplitMixStep) ^ split_mix(coordinate + kSplitMixStep);
  }

  std::uint64_t bits() { return split_mix(state_ += kSplitMixStep); }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform in [0, n), for n below 2^32.
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(((bits() >> 32) * static_cast<std::uint64_t>(n)) >> 32);
  }
  bool chance(double probability) { return uniform() < probability; }
  /// A direction in the plane, by rejection: sin and cos differ from one standard library to the next in the last bit.
  std::array<double, 2> direction() {
    for (;;) {
      const double x = uniform(-1, 1), y = uniform(-1, 1), length = std::sqrt(x * x + y * y);
      if (length > 0.05 && length <= 1) return {x / length, y / length};
    }
  }
  /// Normal with deviation 1.
  double normal() { return normal_quantile((static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53); }

  /// Quantile p, in (0, 1), of a normal variable of deviation 1: Wichura's AS 241 (PPND7), good to
  /// 7 digits.
  static double normal_quantile(double p) {
    const double q = p - 0.5;
    if (std::abs(q) <= 0.425) {
      const double r = 0.180625 - q * q;
      return q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179) /
             (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1);
    }
    double r = std::sqrt(-log(q < 0 ? p : 1 - p)), x;
    if (r <= 5) {
      r -= 1.6;
      x = (((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777) /
          ((0.12021132975 * r + 0.73700164250) * r + 1);
    } else {
      r -= 5;
      x = (((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.6579051150) /
          ((0.012258202635 * r + 0.24197894225) * r + 1);
    }
    return q < 0 ? -x : x;
  }

 private:
  // The natural logarithm by its series in (m - 1) / (m + 1), |.| <= 0.172: exact to rounding, and the same with every
  // library.
  static double log(double x) {
    int exponent;
    double m = std::frexp(x, &exponent);
    if (m < 0.70710678118654752) {
      m *= 2;
      --exponent;
    }
    const double t = (m - 1) / (m + 1), square = t * t;
    double sum = 0;
    for (int n = 21; n > 0; n -= 2) sum = sum * square + 1.0 / n;
    return 2 * t * sum + exponent * 0.69314718055994531;
  }

  std::uint64_t state_;
};

}  // namespace kineograph::video

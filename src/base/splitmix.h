// SplitMix64's two pieces, for draws that depend on a seed and a place only.
#pragma once

#include <cstdint>

namespace kineograph {

/// Added from one draw of a stream to the next: 2^64 / the golden ratio.
inline constexpr std::uint64_t kSplitMixStep = 0x9E3779B97F4A7C15;

/// The finaliser (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
constexpr std::uint64_t split_mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace kineograph

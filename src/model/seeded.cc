#include "model/seeded.h"

namespace kineograph::model {
namespace {

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15;  // 2^64 / the golden ratio

/// Fowler-Noll-Vo hash 1a.
std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: the finaliser of SplitMix64.
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace

SeededUniform::SeededUniform(std::uint64_t seed, std::string_view name) : key_(fnv1a(name) ^ (seed * kGolden)) {}

float SeededUniform::operator()(std::uint64_t i) const {
  const auto bits = static_cast<std::int64_t>(mix(key_ + (i + 1) * kGolden) >> 41);
  return static_cast<float>(2 * bits + 1 - (std::int64_t{1} << 23)) * 0x1p-23f;
}

}  // namespace kineograph::model

#include "model/seeded.h"

#include "base/splitmix.h"

namespace kineograph::model {
namespace {

/// Fowler-Noll-Vo hash 1a.
std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

}  // namespace

SeededUniform::SeededUniform(std::uint64_t seed, std::string_view name) : key_(fnv1a(name) ^ (seed * kSplitMixStep)) {}

float SeededUniform::operator()(std::uint64_t i) const {
  const auto bits = static_cast<std::int64_t>(split_mix(key_ + (i + 1) * kSplitMixStep) >> 41);
  return static_cast<float>(2 * bits + 1 - (std::int64_t{1} << 23)) * 0x1p-23f;
}

}  // namespace kineograph::model

// Dropout's masks, from a counter instead of a state: any engine, thread or repetition draws the same ones.
#pragma once

#include <array>
#include <cstdint>

namespace kineograph::engine {

/// Philox4x32-10: four words for a counter of four and a key of two (Salmon, Moraes, Dror and Shaw, "Parallel Random
/// Numbers: As Easy as 1, 2, 3", 2011).
inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint64_t key) {
  auto low = static_cast<std::uint32_t>(key), high = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0], b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ low, static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ high, static_cast<std::uint32_t>(a)};
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return counter;
}

/// Places of dropout in a block; the labels are the model's.
enum class DropoutSite : std::uint32_t { attn1, attn2, feed_forward, labels };

/// The dropout of one site of one layer: diffusers' nn.Dropout behind to_out and behind the activation.
class Dropout {
 public:
  /// Drops with probability `p` in [0, 1].
  Dropout(double p, std::uint64_t seed, std::int64_t layer, DropoutSite site)
      : seed_(seed),
        place_(static_cast<std::uint32_t>(layer) * 4 + static_cast<std::uint32_t>(site)),
        threshold_(static_cast<std::uint64_t>(p * 0x1p32)),
        kept_(p < 1.0 ? 1.0 / (1.0 - p) : 0.0) {}

  /// Factor of element `channel` of token (video * H * W + pixel) * F + frame: 0 or 1 / (1 - p).
  double operator()(std::int64_t token, std::int64_t channel) const {
    const auto t = static_cast<std::uint64_t>(token), c = static_cast<std::uint64_t>(channel);
    const auto words = philox(
        {static_cast<std::uint32_t>(t), static_cast<std::uint32_t>(t >> 32), static_cast<std::uint32_t>(c / 4), place_},
        seed_);
    return words[c % 4] < threshold_ ? 0.0 : kept_;
  }

 private:
  std::uint64_t seed_;
  std::uint32_t place_;
  std::uint64_t threshold_;
  double kept_;
};

}  // namespace kineograph::engine

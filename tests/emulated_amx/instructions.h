// AMX's instructions as plain loops, in the place of the compiler's: the engine's sources are compiled once more with
// this included first, so that any machine with AVX512-BF16 tests the matrix unit's kernels. As in the processor, eight
// registers belong to a thread, sums of even and odd channels are chains of fused multiply-adds, and what a program may
// not rely on (unconfigured registers) is no number.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace kineograph::testing {

struct AmxRegister {
  std::uint32_t words[16][16];
};

inline thread_local AmxRegister amx_registers[8];
inline thread_local bool amx_configured = false;

inline void fill_registers(float value) {
  for (AmxRegister& tile : amx_registers)
    for (auto& row : tile.words)
      for (std::uint32_t& word : row) std::memcpy(&word, &value, sizeof word);
}

inline void configure_amx(const void* configuration) {
  // One palette, no restart, and every register whole: all that the engine asks for.
  std::uint8_t bytes[64];
  std::memcpy(bytes, configuration, sizeof bytes);
  amx_configured = bytes[0] == 1 && bytes[1] == 0;
  for (int i = 0; i < 8; ++i)
    amx_configured = amx_configured && bytes[16 + 2 * i] == 64 && bytes[17 + 2 * i] == 0 && bytes[48 + i] == 16;
  fill_registers(amx_configured ? 0.0f : std::numeric_limits<float>::quiet_NaN());
}

inline void release_amx() {
  amx_configured = false;
  fill_registers(std::numeric_limits<float>::quiet_NaN());
}

inline void load_register(int tile, const void* from, std::size_t stride) {
  for (std::size_t row = 0; row < 16; ++row)
    std::memcpy(amx_registers[tile].words[row], static_cast<const char*>(from) + row * stride, 64);
}

inline void store_register(int tile, void* to, std::size_t stride) {
  for (std::size_t row = 0; row < 16; ++row)
    std::memcpy(static_cast<char*>(to) + row * stride, amx_registers[tile].words[row], 64);
}

inline void zero_register(int tile) { amx_registers[tile] = {}; }

inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void multiply_registers(int sums, int a, int b) {
  for (std::size_t m = 0; m < 16; ++m) {
    float even[16] = {}, odd[16] = {};
    for (std::size_t k = 0; k < 16; ++k) {
      const std::uint32_t x = amx_registers[a].words[m][k];
      for (std::size_t n = 0; n < 16; ++n) {
        const std::uint32_t y = amx_registers[b].words[k][n];
        even[n] = std::fma(float_of(x << 16), float_of(y << 16), even[n]);
        odd[n] = std::fma(float_of(x & 0xffff0000u), float_of(y & 0xffff0000u), odd[n]);
      }
    }
    for (std::size_t n = 0; n < 16; ++n) {
      std::uint32_t& word = amx_registers[sums].words[m][n];
      const float sum = amx_configured ? float_of(word) + (even[n] + odd[n]) : std::numeric_limits<float>::quiet_NaN();
      std::memcpy(&word, &sum, sizeof word);
    }
  }
}

}  // namespace kineograph::testing

#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_zero
#define _tile_loadconfig kineograph::testing::configure_amx
#define _tile_release kineograph::testing::release_amx
#define _tile_loadd kineograph::testing::load_register
#define _tile_stored kineograph::testing::store_register
#define _tile_dpbf16ps kineograph::testing::multiply_registers
#define _tile_zero kineograph::testing::zero_register

// What the emulated device tells tests of its memory and streams.
#pragma once

#include <atomic>
#include <cstddef>

namespace kineograph::engine::cuda::emulated {

extern std::atomic<std::size_t> bytes_in_use, most_bytes_in_use;
/// What the device has in all; DeviceMemory throws beyond it.
extern std::atomic<std::size_t> device_bytes;
extern std::atomic<int> device_of_last_stream;

}  // namespace kineograph::engine::cuda::emulated

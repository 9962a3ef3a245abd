// Device memory of the emulated device: no numbers at first, and guarded: a write behind its end ends the program.
#include "engine/cuda/runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "device.h"
#include "kineograph/error.h"

namespace kineograph::engine::cuda {
namespace {

constexpr std::size_t kAlignment = 256, kGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;

std::size_t rounded(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

thread_local int device = 0;

}  // namespace

namespace emulated {
std::atomic<std::size_t> bytes_in_use{0}, most_bytes_in_use{0}, device_bytes{std::size_t{1} << 40};
std::atomic<int> device_of_last_stream{0};
}  // namespace emulated

std::string architecture() { return "emulated"; }
std::string why_no_device() { return ""; }

int current_device() { return device; }
DeviceScope::DeviceScope(int asked) : before_(device) { device = asked; }
DeviceScope::~DeviceScope() { device = before_; }

OwnStream::OwnStream() { emulated::device_of_last_stream = device; }
OwnStream::~OwnStream() = default;
void OwnStream::wait() const {}

/// In front of the memory stands its size, behind it the guard.
DeviceMemory::DeviceMemory(std::size_t bytes, Stream stream) : stream_(stream) {
  if (bytes == 0) return;
  if (emulated::bytes_in_use + bytes > emulated::device_bytes)
    throw Error("memory of the CUDA device", std::to_string(bytes) + " more bytes", "less");
  auto* const whole = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, rounded(bytes + kAlignment + kGuard)));
  std::memcpy(whole, &bytes, sizeof bytes);
  std::memset(whole + kAlignment, 0xff, bytes);
  std::memset(whole + kAlignment + bytes, kGuardByte, kGuard);
  data_ = whole + kAlignment;
  emulated::bytes_in_use += bytes;
  if (emulated::bytes_in_use > emulated::most_bytes_in_use) emulated::most_bytes_in_use = emulated::bytes_in_use.load();
}
DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  auto* const whole = static_cast<unsigned char*>(data_) - kAlignment;
  std::size_t bytes = 0;
  std::memcpy(&bytes, whole, sizeof bytes);
  for (std::size_t i = 0; i < kGuard; ++i)
    if (whole[kAlignment + bytes + i] != kGuardByte) {
      std::fputs("emulated device: written behind the end of device memory\n", stderr);
      std::abort();
    }
  emulated::bytes_in_use -= bytes;
  std::free(whole);
}

void copy_to_device(void* to, const void* from, std::size_t bytes, Stream) { std::memcpy(to, from, bytes); }
void copy_to_host(void* to, const void* from, std::size_t bytes, Stream) { std::memcpy(to, from, bytes); }
void check_launch() {}

}  // namespace kineograph::engine::cuda

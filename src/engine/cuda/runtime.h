// A device's memory and streams; failures are exceptions.
#pragma once

#include <cstddef>
#include <string>

namespace kineograph::engine::cuda {

/// A cudaStream_t.
using Stream = void*;

/// "sm_90" of the current device; empty where there is none that the kernels run on.
std::string architecture();
/// Why architecture() is empty, in a sentence.
std::string why_no_device();

/// Number of the device that is current for this thread.
int current_device();
/// Makes a device current for this thread, for as long as it lives.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_;
};

/// Orders the work of one call, on the device that is current.
class OwnStream {
 public:
  OwnStream();
  ~OwnStream();  // NOLINT(performance-trivially-destructible): it is, on the emulated device alone
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  operator Stream() const noexcept { return stream_; }
  /// Until all that was queued is done. Throws what failed meanwhile.
  void wait() const;

 private:
  Stream stream_ = nullptr;
};

/// Device memory, aligned to 256 bytes, whose values are undefined at first. It is given back when all work that was
/// queued on its stream is done. The stream outlives it.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /// Throws Error where the device has not so much left.
  DeviceMemory(std::size_t bytes, Stream stream);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept : data_(other.data_), stream_(other.stream_) { other.data_ = nullptr; }
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  void* data() const noexcept { return data_; }

 private:
  void* data_ = nullptr;
  Stream stream_ = nullptr;
};

/// Both return when the copy is done.
void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream);

/// Throws where the launch before it was refused.
void check_launch();

}  // namespace kineograph::engine::cuda

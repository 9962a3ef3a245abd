#include "engine/cuda/runtime.h"

#include <cuda_runtime.h>

#include "kineograph/error.h"

namespace kineograph::engine::cuda {
namespace {

constexpr int kLeastMajor = 8;  ///< of the compute capability: mma.sync of 16 columns, cp.async

/// The first error that the runtime reports ends the call; errors of kernels surface at the next wait.
void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess)
    throw Error("engine cuda", std::string(what) + " to succeed",
                std::string("CUDA's error: ") + cudaGetErrorString(code));
}

struct Found {
  std::string architecture, why_not;
};

/// A driver that fails here costs a program this engine, no more.
Found find() {
  int count = 0, device = 0, major = 0, minor = 0;
  cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count == 0) return {"", "no CUDA device: none is visible"};
  if (code == cudaSuccess) code = cudaGetDevice(&device);
  if (code == cudaSuccess) code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (code == cudaSuccess) code = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (code != cudaSuccess) {
    (void)cudaGetLastError();
    return {"", "no CUDA device: " + std::string(cudaGetErrorString(code))};
  }
  const std::string name = "sm_" + std::to_string(10 * major + minor);
  if (major < kLeastMajor) return {"", "the CUDA device is " + name + ", the kernels need sm_80 or newer"};
  return {name, ""};
}

const Found& found() {
  static const Found once = find();
  return once;
}

}  // namespace

std::string architecture() { return found().architecture; }
std::string why_no_device() { return found().why_not; }

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "the current device");
  return device;
}
DeviceScope::DeviceScope(int device) : before_(current_device()) { check(cudaSetDevice(device), "a change of device"); }
DeviceScope::~DeviceScope() { (void)cudaSetDevice(before_); }

OwnStream::OwnStream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  stream_ = stream;
}
OwnStream::~OwnStream() { (void)cudaStreamDestroy(static_cast<cudaStream_t>(stream_)); }
void OwnStream::wait() const { check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)), "the queued work"); }

DeviceMemory::DeviceMemory(std::size_t bytes, Stream stream) : stream_(stream) {
  if (bytes == 0) return;
  const cudaError_t code = cudaMallocAsync(&data_, bytes, static_cast<cudaStream_t>(stream));
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    std::size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    throw Error("memory of the CUDA device", std::to_string(bytes) + " more bytes",
                std::to_string(free) + " free of " + std::to_string(total));
  }
  check(code, "memory");
}
DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) (void)cudaFreeAsync(data_, static_cast<cudaStream_t>(stream_));
}

void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)), "a copy");
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "a copy to the device");
}
void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, static_cast<cudaStream_t>(stream)), "a copy");
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "a copy from the device");
}

void check_launch() { check(cudaGetLastError(), "the launch of a kernel"); }

}  // namespace kineograph::engine::cuda

// Pieces shared by the fuzz targets.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "kineograph/checkpoint.h"
#include "kineograph/error.h"
#include "kineograph/lora.h"
#include "kineograph/modules.h"
#include "kineograph/tensor.h"

namespace kineograph::fuzz {

/// Runs `parse`; the library's own errors are what damaged input is for.
template <class Parse>
int expect_value_or_error(Parse&& parse) {
  try {
    parse();
  } catch (const Error&) {
  }
  return 0;
}

/// Reads every element, so that a view of what is not there is found.
inline void read_all(const TensorView& view) {
  constexpr std::int64_t kEnough = 1 << 20;  // strides of 0 make any size of a few bytes
  if (view.numel() > kEnough) return;
  const Tensor copy = convert(view, view.dtype());
  volatile std::size_t bytes = copy.bytes();
  (void)bytes;
}

/// A file in memory, for what takes a path.
class MemoryFile {
 public:
  explicit MemoryFile(const std::string& bytes) : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
    if (descriptor_ < 0 || ::write(descriptor_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      __builtin_trap();
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

/// A folder for a target's files, which goes when the target ends of itself. In memory where that can be had: a writer
/// waits until its file is on the disk, and on a disk that takes most of a target's time.
class Folder {
 public:
  Folder() {
    for (const std::filesystem::path& parent :
         {std::filesystem::path("/dev/shm"), std::filesystem::temp_directory_path()}) {
      std::string pattern = (parent / "kineograph-fuzz-XXXXXX").string();
      if (::mkdtemp(pattern.data()) == nullptr) continue;
      path_ = pattern;
      return;
    }
    __builtin_trap();
  }
  ~Folder() {
    std::error_code none;
    std::filesystem::remove_all(path_, none);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path operator/(const char* name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// All that `kineograph inspect` and a LoRA's reader make of a file.
inline void inspect(const std::string& bytes) {
  const MemoryFile file(bytes);
  expect_value_or_error([&] {
    for (const TemporalModule& module : temporal_modules(Checkpoint::open(file.path()))) {
      volatile std::int64_t parameters = module.num_parameters();
      (void)parameters;
    }
  });
  expect_value_or_error([&] { Lora::open(file.path()); });
}

inline std::string text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace kineograph::fuzz

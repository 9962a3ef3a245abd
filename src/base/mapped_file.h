// A file in memory, read by the operating system when it is touched.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace kineograph::checkpoint {

class MappedFile {
 public:
  /// Throws IoError.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  /// Lets go of the memory behind `part`, if it is of this file; reading it again brings it back.
  void release(std::span<const std::byte> part) const noexcept;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The whole text of a small file. Throws IoError.
std::string read_text(const std::filesystem::path& path);

}  // namespace kineograph::checkpoint

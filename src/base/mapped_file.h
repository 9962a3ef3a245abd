// A file in memory, read by the operating system when it is touched; at once where the system maps no files.
#pragma once

#include <cstddef>
#include <ctime>
#include <filesystem>
#include <span>
#include <string>

namespace kineograph::checkpoint {

/// A map of a regular file. Who cuts the file off while it is mapped makes reading the map a SIGBUS, and who writes
/// into it changes what is read; a file that is replaced by a rename stays as it was for those who have it mapped.
class MappedFile {
 public:
  /// Throws IoError.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::filesystem::path& path() const noexcept { return path_; }
  /// Throws IoError if the file has another size or time of change than when it was opened.
  void check_unchanged() const;
  /// As identity_at; `at` is of this file.
  std::string identity(const std::byte* at) const;
  /// Lets go of the memory behind `part`, if it is of this file; reading it again brings it back.
  void release(std::span<const std::byte> part) const noexcept;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  timespec changed_{};
  std::string identity_;  ///< empty for none
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// check_unchanged of the mapped file that `address` lies in; nothing for memory that is no file's.
void check_unchanged(const void* address);

/// A text for the byte that `address` is in a mapped file: where in which file, told by device, number, size and times.
/// Two maps have the same where they are of the same bytes. Empty for memory that is no file's, and for a file that
/// changed less than two seconds before it was opened or has changed since: its next change might leave its times as
/// they are.
std::string identity_at(const void* address);

/// The path of the mapped file that `address` lies in, or null; for a handler of SIGBUS, where reading that address
/// raised it.
const char* mapped_file_at(const void* address) noexcept;

/// The whole text of a small file: a configuration, an index. Throws IoError, and FormatError for more than 64 MiB.
std::string read_text(const std::filesystem::path& path);

}  // namespace kineograph::checkpoint

// A file that appears whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace kineograph {

/// Writes to a file without a name (on file systems that have none such, to a temporary one beside `path`), which takes
/// the name in commit(). Without commit() nothing remains of it, and an older file of that name stays as it was. Throws
/// IoError.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Waits until all that was written is on the disk.
  void flush();
  /// Flushes and renames.
  void commit();

 private:
  [[noreturn]] void fail(const char* action) const;
  std::string next_name() const;
  std::string descriptor_path() const;
  std::filesystem::path path_, temporary_;
  bool special_ = false;
  int descriptor_ = -1;
};

}  // namespace kineograph

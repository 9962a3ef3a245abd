// Files that appear whole or not at all.
#pragma once

#include <filesystem>
#include <fstream>
#include <ostream>
#include <string>

namespace kineograph::video {

/// Writes beside `path` and takes its name only in commit(): a run that fails, is interrupted or fills the disk leaves
/// what was there. What is not a regular file (a pipe, a device) is written directly; "-" is stdout.
/// One at a time in a process: a signal that ends the process removes the unfinished file.
class OutputFile {
 public:
  /// Throws IoError when the file cannot be made.
  explicit OutputFile(std::filesystem::path path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  /// Without commit() the unfinished file is removed.
  ~OutputFile();

  std::ostream& stream() noexcept { return *stream_; }
  /// The file beside, for another program to write; of what is written directly, that.
  const std::filesystem::path& unfinished() const noexcept { return unfinished_.empty() ? path_ : unfinished_; }
  /// Throws IoError when something written so far was refused (a full disk).
  void check();
  /// Flushes, checks, and gives the file its name.
  void commit();

 private:
  std::filesystem::path path_, unfinished_;
  std::ofstream file_;
  std::ostream* stream_ = nullptr;
};

}  // namespace kineograph::video

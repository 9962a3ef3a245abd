// Output as a stream, to a file that appears whole or not at all.
#pragma once

#include <filesystem>
#include <memory>
#include <ostream>

namespace kineograph {
class AtomicFile;
}

namespace kineograph::video {

/// An AtomicFile as a stream, for programs: a signal that ends the process leaves no temporary file. "-" is stdout.
class OutputFile {
 public:
  /// Throws IoError when the file cannot be made.
  explicit OutputFile(std::filesystem::path path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  /// Without commit() nothing remains of the file.
  ~OutputFile();

  std::ostream& stream() noexcept { return *stream_; }
  /// A name by which another program may write the file instead of stream(); of no use for stdout.
  std::filesystem::path unfinished() const;
  /// Throws IoError when something written so far was refused (a full disk).
  void check();
  /// Flushes, checks, and gives the file its name.
  void commit();

 private:
  class Buffer;
  std::unique_ptr<AtomicFile> file_;  // null for stdout
  std::unique_ptr<Buffer> buffer_;
  std::unique_ptr<std::ostream> own_stream_;
  std::ostream* stream_ = nullptr;
};

}  // namespace kineograph::video

// Another program with a pipe to or from it.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdio>
#include <memory>
#include <streambuf>
#include <string>
#include <vector>

namespace kineograph::video {

/// A program that writes into our stream or reads from it, and what it says on stderr. It is in a process group of its
/// own: Ctrl-C reaches us alone, and we end it in order.
class Process {
 public:
  enum class Pipe { from, to };  ///< its stdout, or its stdin

  /// Finds arguments[0] on the PATH. Throws IoError where it is not there; `what_for` and `hint` say so.
  Process(const std::vector<std::string>& arguments, Pipe pipe, const std::string& what_for, const std::string& hint);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  /// Closes the pipe and waits.
  ~Process();

  /// Of the pipe, until end().
  std::streambuf* buffer() noexcept;
  /// Closes the pipe and waits for the program; whether it ended well.
  bool end();
  /// What it has said on stderr, without the last line's end; at most 4096 bytes.
  std::string said() const;

 private:
  class Buffer;
  std::FILE* messages_;
  std::unique_ptr<Buffer> buffer_;
  pid_t process_ = -1;
  bool well_ = false;
};

/// What a program writes on stdout, run to its end. Throws IoError as Process does, FormatError naming `where` where it
/// does not end well, with its own words.
std::string output_of(const std::vector<std::string>& arguments, const std::string& where, const std::string& what_for,
                      const std::string& hint);

}  // namespace kineograph::video

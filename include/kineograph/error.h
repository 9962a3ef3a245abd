// Errors of the library: typed exceptions, thrown before any work starts; Cancelled while it is done.
#pragma once

#include <stdexcept>
#include <string>
#include <system_error>

#include "kineograph/export.h"

namespace kineograph {

/// Base of every exception the library throws. what() reads
/// "<where>: expected <expected>, found <found>. <hint>", in one line, without control characters and cut off where a
/// part is very long; the parts are kept as they are for programs.
class KINEOGRAPH_API Error : public std::runtime_error {
 public:
  /// Of the parts; `hint` may be empty: what is likely wrong, or what to do.
  Error(std::string where, std::string expected, std::string found, std::string hint = {});

  /// A message that is not of the expected/found form.
  explicit Error(const std::string& message) : std::runtime_error(message) {}

  /// The file, key, tensor or argument at fault.
  const std::string& where() const noexcept { return where_; }
  /// A noun phrase: what would have been right. Empty, as found() and hint() are, in a message of another form.
  const std::string& expected() const noexcept { return expected_; }
  /// The value, type or state that was there instead.
  const std::string& found() const noexcept { return found_; }
  /// The likely cause, or what to do, in whole sentences; may be empty.
  const std::string& hint() const noexcept { return hint_; }

 protected:
  /// Of the parts, and a message in other words.
  Error(const std::string& message, std::string where, std::string expected, std::string found, std::string hint);

 private:
  std::string where_, expected_, found_, hint_;
};

/// A configuration that is unknown, inconsistent or out of range.
class KINEOGRAPH_API ConfigError : public Error {
  using Error::Error;
};

/// A file whose bytes are not what its format says (truncated, overlapping, lying about sizes).
class KINEOGRAPH_API FormatError : public Error {
  using Error::Error;
};

/// A checkpoint whose tensors do not fit the configuration (missing, extra, misshapen; all named at once).
class KINEOGRAPH_API CheckpointError : public Error {
  using Error::Error;
};

/// An argument of forward() of the wrong shape, dtype or range.
class KINEOGRAPH_API ArgumentError : public Error {
  using Error::Error;
};

/// A call that its on_progress ended. The outputs of a forward or backward are then undefined: some of them are there.
/// Files appear whole or not at all.
class KINEOGRAPH_API Cancelled : public Error {
 public:
  Cancelled() : Cancelled("the outputs are undefined") {}
  /// `left` says what became of what the call was to write.
  explicit Cancelled(const std::string& left) : Error("cancelled by on_progress: " + left) {}
};

/// Processes that share a call cannot reach each other, or one of them has failed. What the call was to write is
/// undefined.
class KINEOGRAPH_API CommunicationError : public Error {
  using Error::Error;
};

/// The operating system refused: a file that cannot be opened, read, written or renamed.
class KINEOGRAPH_API IoError : public Error {
 public:
  using Error::Error;
  /// With the system's own reason; what() reads "<where>: no such file or folder".
  IoError(const std::string& where, std::string expected, std::error_code reason, std::string hint = {});
};

}  // namespace kineograph

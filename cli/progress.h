// A progress bar on a terminal, nothing elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace kineograph::cli {

class Progress {
 public:
  /// `total` of `unit`, where known.
  explicit Progress(std::optional<std::int64_t> total, std::string unit = "frames");
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Clears the bar's line.
  ~Progress();
  void advance(std::int64_t by);
  /// What stands behind the bar from the next advance on.
  void note(std::string text) { note_ = std::move(text); }
  bool on_terminal() const noexcept { return on_terminal_; }

 private:
  void draw() const;

  std::optional<std::int64_t> total_;
  std::string unit_, note_;
  std::int64_t done_ = 0;
  bool on_terminal_;
};

}  // namespace kineograph::cli

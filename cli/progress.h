// A progress bar on a terminal, nothing elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

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

 private:
  void draw() const;

  std::optional<std::int64_t> total_;
  std::string unit_;
  std::int64_t done_ = 0;
  bool on_terminal_;
};

}  // namespace kineograph::cli

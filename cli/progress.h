// A progress bar on a terminal, nothing elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace kineograph::cli {

/// One line that is drawn again at most ten times a second, never wider than the terminal, without colours: a bar, what
/// is done of what there is, the rate and the time left. A dumb terminal gets none.
class Progress {
 public:
  /// `total` of `unit`, where known.
  explicit Progress(std::optional<std::int64_t> total, std::string unit = "frames");
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Clears the line: the command's last sentence takes its place.
  ~Progress();
  void advance(std::int64_t by);
  /// Done before this program began, such as the steps of a run that is resumed; not counted in the rate.
  void begin_at(std::int64_t done);
  /// Text behind the bar from the next advance on.
  void note(std::string text) { note_ = std::move(text); }
  bool on_terminal() const noexcept { return on_terminal_; }

 private:
  using Clock = std::chrono::steady_clock;

  void draw();

  std::optional<std::int64_t> total_;
  std::string unit_, note_;
  std::int64_t done_ = 0, began_at_ = 0;
  Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> drawn_;
  bool on_terminal_;
};

/// The line of a bar of `width` columns after `seconds`: "[####    ] 12/40 frames, 3.1/s, 9 s left".
std::string progress_line(std::int64_t done, std::int64_t began_at, std::optional<std::int64_t> total,
                          const std::string& unit, double seconds, const std::string& note, std::size_t width);

}  // namespace kineograph::cli

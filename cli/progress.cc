#include "progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include "messages.h"

namespace kineograph::cli {
namespace {

/// Columns of the terminal on stderr.
std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

bool has_bar() {
  const char* terminal = std::getenv("TERM");
  return isatty(STDERR_FILENO) != 0 && (terminal == nullptr || std::string_view(terminal) != "dumb");
}

/// "45 s", "3 min 20 s", "2 h 5 min".
std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::ceil(std::min(seconds, 1e15)));
  const auto of = [](std::int64_t value, const char* unit) { return std::to_string(value) + unit; };
  if (whole < 60) return of(whole, " s");
  if (whole < 3600) return of(whole / 60, " min ") + of(whole % 60, " s");
  return of(whole / 3600, " h ") + of(whole / 60 % 60, " min");
}

}  // namespace

std::string progress_line(std::int64_t done, std::int64_t began_at, std::optional<std::int64_t> total,
                          const std::string& unit, double seconds, const std::string& note, std::size_t width) {
  const bool bounded = total && *total > 0;
  std::string text = std::to_string(done) + (bounded ? "/" + std::to_string(*total) : "") + " " + unit;
  if (done > began_at && seconds > 0) {
    const double rate = static_cast<double>(done - began_at) / seconds;
    text += ", " + with_decimals(rate, rate < 10 ? 2 : 0) + "/s";
    if (bounded && done < *total) text += ", " + duration_text(static_cast<double>(*total - done) / rate) + " left";
  }
  if (!note.empty()) text += ", " + note;
  // The last column stays free: a terminal that wraps there would leave half a bar behind at every draw.
  const std::size_t columns = width > 0 ? width - 1 : 0;
  constexpr std::size_t kWidest = 40, kNarrowest = 8;
  if (bounded && columns >= text.size() + kNarrowest + 3) {
    const std::size_t cells = std::min(kWidest, columns - text.size() - 3);
    const auto share = static_cast<double>(std::clamp<std::int64_t>(done, 0, *total)) / static_cast<double>(*total);
    const auto filled = static_cast<std::size_t>(share * static_cast<double>(cells));
    text = "[" + std::string(filled, '#') + std::string(cells - filled, ' ') + "] " + text;
  }
  return text.substr(0, columns);
}

Progress::Progress(std::optional<std::int64_t> total, std::string unit)
    : total_(total), unit_(std::move(unit)), on_terminal_(has_bar()) {
  draw();
}

Progress::~Progress() {
  if (on_terminal_) std::cerr << "\r\x1b[K" << std::flush;
}

void Progress::begin_at(std::int64_t done) { done_ = began_at_ = done; }

void Progress::advance(std::int64_t by) {
  done_ += by;
  draw();
}

void Progress::draw() {
  if (!on_terminal_) return;
  const Clock::time_point now = Clock::now();
  const bool last = total_ && done_ >= *total_;
  if (drawn_ && !last && now - *drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::cerr << "\r\x1b[K" << progress_line(done_, began_at_, total_, unit_, seconds, note_, terminal_width())
            << std::flush;
}

}  // namespace kineograph::cli

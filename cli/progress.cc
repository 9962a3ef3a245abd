#include "progress.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <string>

namespace kineograph::cli {

Progress::Progress(std::optional<std::int64_t> total, std::string unit)
    : total_(total), unit_(std::move(unit)), on_terminal_(isatty(STDERR_FILENO) != 0) {
  draw();
}

Progress::~Progress() {
  if (on_terminal_) std::cerr << "\r\x1b[K" << std::flush;
}

void Progress::advance(std::int64_t by) {
  done_ += by;
  draw();
}

void Progress::draw() const {
  if (!on_terminal_) return;
  std::cerr << "\r\x1b[K";
  if (total_ && *total_ > 0) {
    constexpr std::int64_t kWidth = 40;
    const std::int64_t filled = std::min(done_, *total_) * kWidth / *total_;
    std::cerr << '[' << std::string(static_cast<std::size_t>(filled), '#')
              << std::string(static_cast<std::size_t>(kWidth - filled), ' ') << "] " << done_ << '/' << *total_ << ' '
              << unit_;
  } else {
    std::cerr << done_ << ' ' << unit_;
  }
  if (!note_.empty()) std::cerr << ", " << note_;
  std::cerr << std::flush;
}

}  // namespace kineograph::cli

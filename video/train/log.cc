#include "video/train/log.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <system_error>

#include "kineograph/error.h"
#include "video/output_file.h"
#include "video/train/plot.h"

namespace kineograph::video {
namespace {

constexpr char kHeader[] = "step,loss,gradient_norm,learning_rate,seconds";

}  // namespace

TrainingLog::TrainingLog(const std::filesystem::path& folder, std::int64_t steps_done) : folder_(folder) {
  const std::filesystem::path path = folder / "log.csv";
  std::string kept = std::string(kHeader) + "\n", line;
  if (steps_done > 0) {
    std::ifstream before(path);
    std::getline(before, line);
    while (static_cast<std::int64_t>(losses_.size()) < steps_done && std::getline(before, line)) {
      const std::size_t comma = line.find(',');
      if (comma == std::string::npos || before.eof()) break;  // the last line of a run that was killed
      losses_.push_back(std::strtod(line.c_str() + comma + 1, nullptr));
      kept += line + "\n";
    }
    constexpr std::int64_t kMostLost = 10'000'000;
    const std::int64_t lost = steps_done - static_cast<std::int64_t>(losses_.size());
    if (lost > kMostLost)
      throw CheckpointError(path.string(), "the lines of the " + std::to_string(steps_done) + " steps before",
                            std::to_string(lost) + " fewer");
    // Steps whose lines are lost leave a gap, not a shift.
    losses_.resize(static_cast<std::size_t>(steps_done), std::numeric_limits<double>::quiet_NaN());
  }
  OutputFile rewritten(path);
  rewritten.stream() << kept;
  rewritten.commit();
  errno = 0;
  file_.open(path, std::ios::app);
  if (!file_)
    throw IoError(path.string(), "a file that can be written", std::error_code(errno, std::generic_category()));
}

void TrainingLog::add(const StepReport& report) {
  losses_.push_back(report.loss);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  char line[160];
  std::snprintf(line, sizeof line, "%lld,%.9g,%.9g,%.9g,%.3f\n", static_cast<long long>(report.step), report.loss,
                report.gradient_norm, report.learning_rate, seconds);
  errno = 0;
  file_ << line << std::flush;
  if (!file_)
    throw IoError((folder_ / "log.csv").string(), "to write on", std::error_code(errno, std::generic_category()),
                  "The last checkpoint is whole.");
}

void TrainingLog::plot() const {
  OutputFile file(folder_ / "loss.svg");
  file.stream() << loss_plot(losses_);
  file.commit();
}

double TrainingLog::recent_loss() const {
  const std::size_t count = std::min<std::size_t>(losses_.size(), 100);
  double sum = 0;
  for (std::size_t i = losses_.size() - count; i < losses_.size(); ++i) sum += losses_[i];
  return sum / static_cast<double>(count);
}

}  // namespace kineograph::video

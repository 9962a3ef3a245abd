// The record of a run: log.csv and loss.svg in its folder.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

#include "video/train/session.h"

namespace kineograph::video {

class TrainingLog {
 public:
  /// Takes up the log in `folder` as far as `steps_done`: what came after the checkpoint is dropped. Throws IoError.
  TrainingLog(const std::filesystem::path& folder, std::int64_t steps_done);
  /// Adds a line: step, loss, the gradient's norm before it was clipped, learning rate, seconds since the run was
  /// started or resumed.
  void add(const StepReport& report);
  /// Draws loss.svg anew.
  void plot() const;
  /// The mean loss of the last steps; NaN before any.
  double recent_loss() const;

 private:
  std::filesystem::path folder_;
  std::vector<double> losses_;
  std::ofstream file_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace kineograph::video

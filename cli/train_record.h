// The files of a training run, written by one process.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "progress.h"
#include "train_settings.h"
#include "video/train/log.h"
#include "video/train/session.h"

namespace kineograph::cli {

/// A run's weights and moments, in its folder.
constexpr const char* kCheckpointFile = "checkpoint.safetensors";

/// A folder that this run has for itself until it ends: two would write over each other's files.
class FolderLock {
 public:
  /// Throws IoError.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// The model, the checkpoint and the log of a run, and what the terminal is told.
class Record {
 public:
  /// Takes up the log in --output. `settings` is kept in the checkpoint. What is handed over outlives it.
  Record(const TrainArguments& arguments, const video::TrainingSession& session, std::string settings);
  void save() const;
  /// Saves now and then.
  void add(const video::StepReport& step);
  /// Saves and ends the bar: sentences may follow.
  void finish();
  /// The loss and the speed as text.
  std::string state() const;

 private:
  using Clock = std::chrono::steady_clock;
  std::string loss() const;

  const TrainArguments& arguments_;
  const video::TrainingSession& session_;
  std::string settings_;
  video::TrainingLog log_;
  std::optional<Progress> progress_;
  std::int64_t from_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace kineograph::cli

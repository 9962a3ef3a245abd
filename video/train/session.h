// A training run: weights, optimizer and step count, that can be put on disk and taken up again bit for bit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/model.h"
#include "video/train/batch.h"
#include "video/train/optimizer.h"

namespace kineograph::video {

struct TrainingOptions {
  std::int64_t steps = 20000, warmup = 200;
  double learning_rate = 1e-3, clip_norm = 1, ema = 0.999;
  AdamWOptions adamw = {};
  BatchOptions batches = {};
};

/// Figures of a step.
struct StepReport {
  std::int64_t step;  ///< counted from 1
  double loss, gradient_norm, learning_rate;
};

class TrainingSession {
 public:
  /// Starts from `initial`, which gives the configuration too. `engine` says what computes; `threads` as in
  /// ForwardOptions.
  TrainingSession(const TransformerTemporalModel& initial, TrainingOptions options,
                  std::vector<std::shared_ptr<const WindowSource>> sources, ModelOptions engine, int threads);

  std::int64_t steps_done() const noexcept { return optimizer_.steps; }
  bool finished() const noexcept { return optimizer_.steps >= options_.steps; }
  /// Tokens that a step brings through the model.
  std::int64_t tokens_per_step() const noexcept;
  /// Does one step, while another thread makes the next one's batch. Throws Error for a loss that is not finite,
  /// before it reaches the weights.
  StepReport step();

  /// Writes weights, moving averages and step count, atomically. `settings` is kept with them.
  void save(const std::filesystem::path& file, const std::string& settings) const;
  /// Takes a run up again. Throws CheckpointError for a file that is none of such a run's.
  void load(const Checkpoint& checkpoint);
  /// Writes the moving average of the weights as a model folder.
  void save_model(const std::filesystem::path& folder, DType dtype) const;

 private:
  struct Slot {
    std::string name;
    Shape shape;
    std::size_t offset, size;
    bool trained, decayed;
  };
  std::vector<Parameter> state_dict(const std::vector<float>& values) const;

  TransformerTemporalConfig config_;
  TrainingOptions options_;
  std::vector<std::shared_ptr<const WindowSource>> sources_;
  ModelOptions engine_;
  int threads_;
  std::vector<Slot> slots_;
  std::vector<float> weights_, average_, gradients_;  // all parameters, one behind the other
  AdamW optimizer_;
  std::future<Batch> next_;
  std::int64_t next_number_ = 0;
};

}  // namespace kineograph::video

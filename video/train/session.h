// A training run: weights, optimizer and step count, that can be put on disk and taken up again bit for bit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/communicator.h"
#include "kineograph/model.h"
#include "video/train/batch.h"
#include "video/train/optimizer.h"

namespace kineograph::video {

struct TrainingOptions {
  std::int64_t steps = 20000, warmup = 200;
  double learning_rate = 1e-3, clip_norm = 1, ema = 0.999;
  /// Windows whose gradients are computed at once, as one part of the step; 0 for all. See step_parts.h.
  std::int64_t micro_batch = 0;
  AdamWOptions adamw = {};
  BatchOptions batches = {};

  /// Windows of a part; the last one may have fewer.
  std::int64_t part_windows() const noexcept { return micro_batch == 0 ? batches.batch : micro_batch; }
  std::int64_t parts() const noexcept { return (batches.batch + part_windows() - 1) / part_windows(); }
};

/// Figures of a step.
struct StepReport {
  std::int64_t step;  ///< counted from 1
  double loss, gradient_norm, learning_rate;
};

class TrainingSession {
 public:
  /// Starts from `initial`, which gives the configuration too. `engine` says what computes; `threads` as in
  /// ForwardOptions. `ranks` share every step, each with a session of the same run that does the same steps; null for
  /// a process by itself. Outlives the session.
  TrainingSession(const TransformerTemporalModel& initial, TrainingOptions options,
                  std::vector<std::shared_ptr<const WindowSource>> sources, ModelOptions engine, int threads,
                  Communicator* ranks = nullptr);

  std::int64_t steps_done() const noexcept { return optimizer_.steps; }
  bool finished() const noexcept { return optimizer_.steps >= options_.steps; }
  /// Tokens that a step brings through the model.
  std::int64_t tokens_per_step() const noexcept;
  /// Does one step, while another thread makes the next one's batch. Throws Error for a loss that is not finite,
  /// before it reaches the weights, CommunicationError where ranks are lost.
  StepReport step();
  /// A hash of the weights and of the windows of the next step.
  std::uint64_t fingerprint() const;

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
  /// The parts of a step that this process computes.
  std::vector<Batch> make_batches(std::int64_t number) const;
  std::vector<Batch> take_batches();
  double compute(const TransformerTemporalModel& model, const Batch& batch, std::int64_t part,
                 std::vector<float>& gradient) const;
  double compute_all();

  TransformerTemporalConfig config_;
  TrainingOptions options_;
  std::vector<std::shared_ptr<const WindowSource>> sources_;
  ModelOptions engine_;
  int threads_;
  std::vector<Slot> slots_;
  std::vector<float> weights_, average_, gradients_;  // all parameters, one behind the other
  std::vector<std::vector<float>> part_gradients_;    // of this process' parts
  AdamW optimizer_;
  Communicator* ranks_;
  std::int64_t parts_, first_part_, own_parts_;  // of a step, and of those this process'
  std::future<std::vector<Batch>> next_;
  std::int64_t next_number_ = 0;
};

}  // namespace kineograph::video

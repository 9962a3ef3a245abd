// Training: the walk forward and back, and the memory that it keeps from call to call.
#pragma once

#include <vector>

#include "engine/conditioning.h"
#include "engine/cpu/backward/buffers.h"
#include "engine/cpu/backward/sums.h"
#include "engine/cpu/call/target.h"
#include "engine/cpu/pack/pool.h"
#include "engine/cpu/pack/trained.h"
#include "engine/cpu/tile/workspace.h"

namespace kineograph::engine::cpu {

/// A call of training: backward, or a forward with dropout.
struct BackwardCall {
  const Call* call = nullptr;  ///< made for training
  const TrainedModel* model = nullptr;
  const Conditioning* conditioning = nullptr;
  Image d_output;  ///< the loss's gradient by the output
  Image d_input;   ///< and by hidden_states; absent where it is not wanted
  const engine::Gradients* gradients = nullptr;
  BackwardSums* sums = nullptr;
  bool forward_only = false;  ///< a forward with dropout: writes call->output, and no gradients
};

/// The walk of training for one model: weights packed for it, and memory that is kept from call to call. The number of
/// threads never changes a bit.
class BackwardPlan {
 public:
  /// Both outlive it.
  BackwardPlan(const Weights& weights, const PackedModel& model, const Target& target);
  BackwardPlan(const BackwardPlan&) = delete;
  BackwardPlan& operator=(const BackwardPlan&) = delete;

  /// Writes `gradients`. `call` is made for training. On threads that it takes by run_on: none is kept while it waits
  /// for other processes.
  void run(const Call& call, const Conditioning& conditioning, const Gradients& gradients, const Image& d_output,
           const Lent& lent, int threads);
  /// A forward with dropout, by the same walk, in the caller's arena.
  void run_forward(const Call& call, int threads);

 private:
  struct State {
    std::vector<BackwardBuffers> buffers;  ///< of a walker each
    BackwardSums sums;
  };
  TileShape tile_shape(const Call& call) const;
  void walk(const BackwardCall& backward, State& state, int threads);

  const Weights& weights_;
  const PackedModel& model_;
  const Target& target_;
  TrainedModel trained_;
  Pool<Workspace> workspaces_;
  Pool<State> states_;
};

}  // namespace kineograph::engine::cpu

// A call that several processes share, from the check of its arguments to its end.
#pragma once

#include <optional>

#include "engine/engine.h"
#include "engine/ranks.h"

namespace kineograph::model {

/// Whatever becomes of this process' part, the others hear of it: arguments that are refused between its making and
/// begin(), and what fails in run(). Without a communicator it does nothing.
class JointCall {
 public:
  explicit JointCall(Communicator* communicator) : waiting_(communicator) {}
  ~JointCall() {
    if (waiting_ != nullptr) engine::Ranks::refuse(*waiting_);
  }
  JointCall(const JointCall&) = delete;
  JointCall& operator=(const JointCall&) = delete;

  /// Agrees with the others about a checked call; throws what engine::Ranks::agree does. `gradients`: of a backward.
  void begin(const TransformerTemporalConfig& config, engine::Inputs& inputs,
             const engine::Gradients* gradients = nullptr);

  /// body(), the engine's work; of several processes, one that has no rows makes the exchanges only.
  template <class Body>
  void run(const Body& body) {
    if (!ranks_) return body();
    try {
      if (ranks_->call().rows != 0)
        body();
      else
        ranks_->sit_out();
    } catch (...) {
      ranks_->fail();
      throw;
    }
  }

 private:
  Communicator* waiting_;  ///< those who wait for this process' word; null from begin() on
  std::optional<engine::Ranks> ranks_;
};

}  // namespace kineograph::model

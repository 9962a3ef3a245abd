// Members of a model.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/late.h"
#include "engine/engine.h"
#include "kineograph/model.h"

namespace kineograph {

struct ModelMixin::Impl {
  ModelConfig config;
  engine::Weights weights;            // views into the owner's memory or `tensors`
  std::vector<Parameter> parameters;  // the same, by name
  std::shared_ptr<const void> owner;  // keeps mapped files alive
  std::deque<Tensor> tensors;         // parameters of our own making
  DType dtype = DType::f32;
  const engine::Engine* engine = nullptr;
  engine::PrepareOptions prepared;  // isa and compute_dtype as they were asked for
  engine::Choice choice;

  /// Weights made ready for the engine, at the first use.
  const engine::Plan& plan() const;

  /// From tensors in the caller's memory. `owner` is kept alive.
  static std::shared_ptr<const Impl> from_state_dict(ModelConfig config, const std::vector<Parameter>& state_dict,
                                                     std::shared_ptr<const void> owner, const ModelOptions& options);
  static std::shared_ptr<const Impl> from_config(ModelConfig config, std::uint64_t seed, const ModelOptions& options,
                                                 DType dtype);

 private:
  mutable Late<const engine::Plan> plan_;
};

}  // namespace kineograph

// Members of a model.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

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
  std::string engine;
  std::unique_ptr<const engine::Plan> plan;

  /// From tensors in the caller's memory. `owner` is kept alive.
  static std::shared_ptr<const Impl> from_state_dict(ModelConfig config, const std::vector<Parameter>& state_dict,
                                                     std::shared_ptr<const void> owner, const ModelOptions& options);
  static std::shared_ptr<const Impl> from_config(ModelConfig config, std::uint64_t seed, const ModelOptions& options,
                                                 DType dtype);
};

}  // namespace kineograph

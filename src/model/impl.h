// What a model holds.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "kineograph/model.h"

namespace kineograph {

struct TransformerTemporalModel::Impl {
  TransformerTemporalConfig config;
  engine::Weights weights;            // views into the owner's memory or `tensors`
  std::vector<Parameter> parameters;  // the same, by name
  std::shared_ptr<const void> owner;  // keeps mapped files alive
  std::deque<Tensor> tensors;         // parameters of our own making
  DType dtype = DType::f32;
  std::string engine;
  std::unique_ptr<const engine::Plan> plan;
};

}  // namespace kineograph

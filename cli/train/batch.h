// Batches: windows drawn, damaged and normalised, ready for the model.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kineograph/tensor.h"
#include "restoration.h"
#include "train/damage.h"
#include "train/windows.h"

namespace kineograph::cli {

struct BatchOptions {
  std::int64_t batch = 8;  ///< windows
  WindowExtents extents{12, 64};
  std::int64_t patch = 8;
  DamageOptions damage = {};
  std::uint64_t seed = 0;
};

/// B windows of F frames.
struct Batch {
  Tensor hidden_states;         ///< (B*F, 3 patch^2, crop / patch, crop / patch), damaged and normalised
  Tensor target;                ///< of the same shape: the clean windows, normalised by their level
  Tensor timestep;              ///< (B), f32
  Tensor class_labels;          ///< (B), i64
  std::vector<double> weights;  ///< (B) what makes a squared error one in units of kLossUnit
};

/// The loss counts squared errors in this unit, 25 levels: noise of that deviation, left as it is, costs 1.
constexpr double kLossUnit = 25 * kLevel;

/// Batch number `step` of a run: depends on nothing but the options, the sources and the number.
Batch make_batch(const std::vector<std::shared_ptr<const WindowSource>>& sources, const BatchOptions& options,
                 std::int64_t step);

/// The mean squared error of a sample, in units of kLossUnit, and its gradient by the sample. `gradient` is of the
/// sample's shape.
double squared_error(const Batch& batch, const Tensor& sample, Tensor& gradient);

}  // namespace kineograph::cli

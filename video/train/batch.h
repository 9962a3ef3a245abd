// Batches: windows drawn, damaged and normalised, ready for the model.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kineograph/tensor.h"
#include "video/restore/restoration.h"
#include "video/train/damage.h"
#include "video/train/windows.h"

namespace kineograph::video {

struct BatchOptions {
  std::int64_t batch = 8;  ///< windows
  WindowExtents extents{12, 64};
  std::int64_t patch = 8;
  /// Patches across and down a window: at random places of it, which may overlap; 0 for all that tile it. Few patches
  /// of a large window see the same statistics as all of them, and more windows fit into a step.
  std::int64_t patches = 0;
  /// The model's: says what samples are (see restoration.h).
  TransformerTemporalConfig config = {};
  std::int64_t side() const noexcept { return patches != 0 ? patches : extents.crop / patch; }
  DamageOptions damage = {};
  std::uint64_t seed = 0;
};

/// B windows of F frames: a step's, or neighbours among them.
struct Batch {
  Tensor hidden_states;         ///< (B*F, 3 patch^2, side, side), damaged and normalised
  Tensor target;                ///< of the same shape: the sample of a perfect model
  Tensor timestep;              ///< (B), f32
  Tensor class_labels;          ///< (B), i64
  std::vector<double> weights;  ///< (B) what makes a squared error one in units of the window's noise
  std::int64_t of_windows;      ///< of the whole step, whose mean the loss is
};

/// The loss counts squared errors in units of the window's own noise, so that noise left as it is costs 1 however
/// strong it is; of this many levels where there is less or none; and of more where flicker leaves the level of a small
/// window to guesswork, which would drown everything else.
constexpr double kLeastLossUnit = 10 * kLevel, kFlickerLossUnit = 30 * kLevel;

/// Batch number `step` of a run: depends on nothing but the options, the sources and the number.
Batch make_batch(const std::vector<std::shared_ptr<const WindowSource>>& sources, const BatchOptions& options,
                 std::int64_t step);
/// Its `count` windows from `first` on.
Batch make_part(const std::vector<std::shared_ptr<const WindowSource>>& sources, const BatchOptions& options,
                std::int64_t step, std::int64_t first, std::int64_t count);

/// A batch's part of the step's mean squared error, in units of the noise, and its gradient by the sample. `gradient`
/// is of the sample's shape.
double squared_error(const Batch& batch, const Tensor& sample, Tensor& gradient);

}  // namespace kineograph::video

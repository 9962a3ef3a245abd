// Holds an engine's samples against the reference engine's.
#pragma once

#include "any_model.h"

namespace kineograph::cli {

class Verifier {
 public:
  /// Opens the model at `place` once more, with `options` for the reference engine in f32.
  Verifier(const ModelPlace& place, ModelOptions options);
  /// Runs the reference on the same arguments and remembers the worst difference.
  void check(TensorView hidden_states, const ForwardOptions& options, const SpatialArguments& more,
             const Tensor& sample);
  /// Says what was found. Throws Error when the worst difference exceeds what `checked`'s arithmetic explains.
  void conclude(const AnyModel& checked) const;

 private:
  AnyModel reference_;
  double worst_ = 0;  // |sample - reference|; infinite where exactly one of them is NaN
  double scale_ = 0;  // largest |reference|
  DType sample_dtype_ = DType::f32;
};

}  // namespace kineograph::cli

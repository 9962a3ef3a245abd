// Holds an engine's samples against the reference engine's.
#pragma once

#include <functional>

#include "kineograph/model.h"

namespace kineograph::cli {

class Verifier {
 public:
  /// `open` opens the model once more, with `options` for the reference engine in f32.
  Verifier(const std::function<TransformerTemporalModel(const ModelOptions&)>& open, ModelOptions options);
  /// Runs the reference on the same arguments and remembers the worst difference.
  void check(TensorView hidden_states, const ForwardOptions& options, const Tensor& sample);
  /// Says what was found. Throws Error when the worst difference exceeds what `checked`'s arithmetic explains.
  void conclude(const TransformerTemporalModel& checked) const;

 private:
  TransformerTemporalModel reference_;
  double worst_ = 0;  // |sample - reference|; infinite where exactly one of them is NaN
  double scale_ = 0;  // largest |reference|
  DType sample_dtype_ = DType::f32;
};

}  // namespace kineograph::cli

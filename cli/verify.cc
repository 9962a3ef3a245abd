#include "verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "kineograph/error.h"
#include "messages.h"

namespace kineograph::cli {
namespace {

// Half the distance from 1 to the next number.
double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 0x1p-53;
    case DType::f16:
      return 0x1p-11;
    case DType::bf16:
      return 0x1p-9;
    default:
      return 0x1p-24;
  }
}

std::string scientific(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2g", value);
  return text;
}

ModelOptions on_reference(ModelOptions options) {
  options.engine = "reference";
  options.isa.clear();
  options.compute_dtype = DType::f32;
  return options;
}

}  // namespace

Verifier::Verifier(const ModelPlace& place, ModelOptions options)
    : reference_(open_any(place, on_reference(std::move(options)))) {}

void Verifier::check(TensorView hidden_states, const ForwardOptions& options, const SpatialArguments& more,
                     const Tensor& sample) {
  const Tensor expected = convert(forward(reference_, hidden_states, options, more), DType::f32);
  const Tensor found = convert(sample, DType::f32);
  sample_dtype_ = sample.dtype();
  const float* a = found.data_as<float>();
  const float* b = expected.data_as<float>();
  for (std::int64_t i = 0; i < expected.numel(); ++i) {
    if (std::isfinite(b[i])) scale_ = std::max(scale_, std::abs(static_cast<double>(b[i])));
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    worst_ = std::max(worst_, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
  }
}

void Verifier::conclude(const AnyModel& checked) const {
  // A block rounds about a dozen times between its input and its output, and what it adds to the residual stream is
  // of the output's size at most; 32 roundings of the GEMMs' inputs a block is that with room to spare. The last
  // rounding is the sample's own.
  // A layer of TransformerSpatioTemporalModel is two blocks.
  const bool video = std::holds_alternative<TransformerSpatioTemporalModel>(checked);
  const auto layers =
      (video ? 2.0 : 1.0) * static_cast<double>(std::max<std::int64_t>(1, config_of(checked).num_layers));
  const double tolerance =
      32 * layers * unit_roundoff(mixin(checked).compute_dtype()) + 2 * unit_roundoff(sample_dtype_);
  const double relative = scale_ > 0 ? worst_ / scale_ : worst_;
  const std::string found = "worst difference " + scientific(worst_) + ", " + scientific(relative) +
                            " of the output's largest value " + scientific(scale_);
  if (!(relative <= tolerance))
    throw Error("verification against the reference engine",
                "at most " + scientific(tolerance) + " of the output's scale", found);
  say("verified against the reference engine: " + found + " (allowed " + scientific(tolerance) + ")");
}

}  // namespace kineograph::cli

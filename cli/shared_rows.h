// A clip through a model, shared by the ranks of a job.
#pragma once

#include "job.h"
#include "kineograph/kineograph.h"

namespace kineograph::cli {

/// Every rank computes its rows of the pictures. Returns the whole sample on rank 0 and an empty tensor elsewhere.
/// Throws what forward throws.
Tensor forward_together(Job& job, const TransformerTemporalModel& model, const TensorView& hidden_states,
                        ForwardOptions options);

}  // namespace kineograph::cli

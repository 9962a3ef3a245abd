// The gradients of a call.
#pragma once

#include "engine/reference/passage.h"

namespace kineograph::engine::reference {

/// Writes the gradients that are wanted, for the gradient `d_output` of the loss by the output. The forward of every
/// run is computed anew. Each thread has runs of its own and sums of its own, which are added in the threads' order:
/// the same bits for the same number of threads.
void run_backward(const Passage& passage, const Weights& weights, const TensorView& d_output,
                  const Gradients& gradients, int threads);

}  // namespace kineograph::engine::reference

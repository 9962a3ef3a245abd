// The one function that makes a Call.
#pragma once

#include "engine/cpu/call/modulations.h"
#include "engine/cpu/call/statistics.h"

namespace kineograph::engine::cpu {

/// The walks of training are backward, and forward with dropout.
enum class Purpose { inference, training };

struct CallRequest {
  const PackedModel& model;
  const Weights& weights;
  const Target& target;
  const Inputs& inputs;
  MutableTensorView output;  ///< of a forward
  Purpose purpose;
};

/// A call and all that it points to beside the model and the caller's memory; kept for the next one, so that a steady
/// stream of calls allocates nothing.
struct CallMemory {
  Call call;
  GroupNormTables group_norm;
  Modulations modulations;
};

/// The memory of a view (B*F, C, H, W), or of a discrete model's (B*F, V-1, H*W).
Image image_of(const TensorView& view, std::int64_t width);

/// Whether any attention has a processor of its own.
bool any_processor(const Inputs& inputs);

/// Fills the extents of `call`, which the sizes of working memory depend on, and where its tensors lie.
void describe(const CallRequest& request, Call& call);

/// Describes a call, takes GroupNorm's statistics (of a picture that several processes share: makes them of
/// memory.group_norm.rows, which are there already), modulates the norms, and projects a conditioning that a video's
/// pixels share, on `threads` threads of the caller's arena.
const Call& make_call(const CallRequest& request, int threads, CallMemory& memory);

}  // namespace kineograph::engine::cpu

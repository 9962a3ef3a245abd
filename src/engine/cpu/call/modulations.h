// Scales, shifts and gates of every block for every video.
#pragma once

#include <vector>

#include "engine/conditioning.h"
#include "engine/cpu/call/call.h"

namespace kineograph::engine::cpu {

/// The memory behind Call::modulations, kept for the next call.
struct Modulations {
  Conditioning conditioning;
  std::vector<float> values;
  /// [layer][norm1, norm2][frame][I]: shifts with the positions of the `positioned_frames` that an attention sees.
  std::vector<float> positioned;
  std::size_t positioned_frames = 0;
};

/// Fills call.modulations for every block and video of call.model.
void modulate(const Weights& weights, const Inputs& inputs, Call& call, Modulations& made);

}  // namespace kineograph::engine::cpu

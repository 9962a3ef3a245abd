// Keys and values of a conditioning that all pixels of a video share, computed once a call.
#pragma once

#include "engine/cpu/call/target.h"

namespace kineograph::engine::cpu {

/// Fills call.shared_context of call.context, a row a video.
void project_context(const Target& target, int threads, Call& call);

}  // namespace kineograph::engine::cpu

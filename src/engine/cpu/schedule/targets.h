// The instruction sets that run here.
#pragma once

#include <vector>

#include "engine/cpu/call/target.h"

namespace kineograph::engine::cpu {

/// The instruction sets that this machine can run, best first.
const std::vector<const Target*>& targets();

}  // namespace kineograph::engine::cpu

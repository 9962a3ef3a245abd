// Compiles the walk of training once per instruction set; targets.cc lists them.
// clang-format off: the order of these lines is what makes foreach_target.h include this file again and again.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/backward/targets.cc"
#include "engine/cpu/schedule/disabled_targets.h"
#include "hwy/foreach_target.h"
// clang-format on

#if HWY_TARGET != HWY_SCALAR  // not offered
#include "engine/cpu/backward/walk-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

void WalkBackward(const BackwardCall& backward, const Tile& tile, Team& team, Turns& turns, BackwardBuffers& buffers) {
  BackwardWalk(backward, tile, team, turns, buffers).Run();
}

std::size_t BackwardScratch(std::size_t queries, std::size_t keys) {
  // Four queries' scores on the way forward.
  return std::max(AttentionBackwardScratch(queries, keys), kQueryBlock * keys * kLanes);
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE
#endif

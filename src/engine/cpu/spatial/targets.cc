// Compiles the walk through segments once per instruction set; schedule/targets.cc lists them.
// clang-format off: the order of these lines is what makes foreach_target.h include this file again and again.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/spatial/targets.cc"
#include "engine/cpu/schedule/disabled_targets.h"
#include "hwy/foreach_target.h"
// clang-format on

#if HWY_TARGET != HWY_SCALAR  // not offered
#include "engine/cpu/spatial/walk-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

template <Arithmetic kArithmetic>
void WalkSegment(const RowsCall& rows, const Segment& segment, const Tile& tile, Team& team, Workspace& workspace) {
  SegmentWalk<kArithmetic>(rows, segment, tile, team, workspace).Run();
}

template void WalkSegment<Arithmetic::f32>(const RowsCall&, const Segment&, const Tile&, Team&, Workspace&);
template void WalkSegment<Arithmetic::bf16_storage>(const RowsCall&, const Segment&, const Tile&, Team&, Workspace&);
#if KINEOGRAPH_NATIVE_BF16
template void WalkSegment<Arithmetic::bf16>(const RowsCall&, const Segment&, const Tile&, Team&, Workspace&);
template void WalkSegment<Arithmetic::bf16_amx>(const RowsCall&, const Segment&, const Tile&, Team&, Workspace&);
#endif

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE
#endif

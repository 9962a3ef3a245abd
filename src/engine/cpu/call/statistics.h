// Statistics of the input GroupNorm.
#pragma once

#include <vector>

#include "engine/cpu/call/call.h"
#include "engine/cpu/call/target.h"

namespace kineograph::engine::cpu {

/// (x - mean[c]) * scale[c] + shift[c] normalises channel c; C values for each video, or each frame.
struct GroupNormTables {
  std::vector<Moments> moments;  ///< (B, F, groups)
  std::vector<float> mean, scale, shift;
};

/// Reads the whole input once. The order of every sum is fixed, whatever the number of threads. Without `affine` the
/// norm's weight and bias are left out.
void compute_group_norm(const Call& call, const Target& target, bool affine, int threads, GroupNormTables& tables);

}  // namespace kineograph::engine::cpu

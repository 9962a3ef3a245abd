// Statistics of the input GroupNorm.
#pragma once

#include <vector>

#include "engine/cpu/call/call.h"
#include "engine/cpu/call/target.h"

namespace kineograph::engine::cpu {

/// (x - mean[c]) * scale[c] + shift[c] normalises channel c; C values for each video, or each frame.
struct GroupNormTables {
  /// Of each row of pixels, (B, H, groups) or (B, F, H, groups): of hidden_states, then of the whole picture.
  std::vector<Moments> rows;
  std::vector<float> mean, scale, shift;
};

/// tables.rows of hidden_states, which is read once. Neither the number of threads nor which process has which rows
/// changes a bit of a row's moments.
void take_moments(const Call& call, const Target& target, int threads, GroupNormTables& tables);

/// mean, scale and shift of tables.rows of the whole picture, which are added up in their order. Without `affine` the
/// norm's weight and bias are left out.
void make_tables(const Call& call, bool affine, GroupNormTables& tables);

}  // namespace kineograph::engine::cpu

// The gradients that need all tiles: of the input, of norms, conditioning and embeddings.
#pragma once

#include "engine/cpu/backward/backward.h"

namespace kineograph::engine::cpu {

/// mean(g) and mean(g h) over every set of GroupNorm's statistics and group, with h the normalised input and g its
/// output's gradient times the norm's weight.
struct GroupMeans {
  std::vector<double> plain, along;  ///< [set * groups + group]
};

/// Of the sums of all tiles.
GroupMeans group_means(const BackwardCall& backward);

/// The sums of g and of g h in each row of pixels, (sets, H, groups, 2), for pictures that several processes share:
/// tiles' sums depend on where tiles begin. g's factor lies in the memory of the input's gradient.
std::vector<double> sum_rows(const BackwardCall& backward, int threads);
/// Of the rows' sums of the whole picture, in their order.
GroupMeans means_of(const Call& call, const std::vector<double>& rows);

/// The input's gradient from that of GroupNorm's output, which is in its memory, and the residual's d_output.
void finish_input(const BackwardCall& backward, const GroupMeans& means, int threads);

/// Writes the gradients that tiles have summed in double.
void finish_parameters(const BackwardCall& backward, const Weights& weights);

}  // namespace kineograph::engine::cpu

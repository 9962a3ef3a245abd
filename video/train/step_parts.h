// A step's gradient in parts: neighbouring windows of its batch, which one process computes one after the other, or
// ranks each some of. The parts' gradients are added in the batch's order, so that a step's bits depend on what the
// parts are and not on who computed them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kineograph/communicator.h"

namespace kineograph::video {

/// `own`, which are `each` values of every part of this rank's share (share_of), of all `parts` in their order. Null
/// `ranks`: all parts are here. Throws CommunicationError.
std::vector<double> gather_parts(Communicator* ranks, std::int64_t parts, std::vector<double> own, std::size_t each);

/// sum[i] is value i of the first part and of each further one, added in double; `own` are the parts of this rank's
/// share, of sum's size each. The same bits on every rank, for any number of them. Throws CommunicationError.
void add_parts(Communicator* ranks, std::int64_t parts, const std::vector<std::vector<float>>& own,
               std::span<float> sum);

}  // namespace kineograph::video

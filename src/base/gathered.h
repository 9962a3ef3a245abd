// One exchange of processes.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kineograph/communicator.h"

namespace kineograph {

/// Every rank's `mine`, equally many values of each, in the order of ranks. Throws what all_gather throws.
inline std::vector<double> gathered(Communicator& ranks, std::span<const double> mine) {
  std::vector<double> all(mine.size() * static_cast<std::size_t>(ranks.size()));
  ranks.all_gather(mine, all);
  return all;
}

}  // namespace kineograph

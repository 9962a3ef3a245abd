// Work of a number of pieces, cut among some that do it.
#pragma once

#include <cstdint>

namespace kineograph {

/// Neighbouring pieces.
struct Share {
  std::int64_t first, count;
};

/// The pieces of worker `which` of `workers`: as many as the others', or one more.
inline Share share_of(std::int64_t pieces, int which, int workers) {
  const std::int64_t first = pieces * which / workers;
  return {first, pieces * (which + 1) / workers - first};
}

}  // namespace kineograph

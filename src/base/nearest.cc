#include "base/nearest.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace kineograph {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Rows of the table of prefixes' distances: of a's prefix, of one letter less, and of two.
  std::vector<std::size_t> row(b.size() + 1), above, higher;
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    higher = std::exchange(above, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j - 1] + (a[i - 1] != b[j - 1] ? 1 : 0), above[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], higher[j - 2] + 1);
    }
  }
  return row.back();
}

std::string_view nearest(std::string_view name, const std::vector<std::string_view>& known) {
  std::string_view best;
  std::size_t least = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const std::string_view candidate : known) {
    if (name.size() > 3 && candidate.starts_with(name)) return candidate;
    if (const std::size_t distance = edit_distance(name, candidate); distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace kineograph

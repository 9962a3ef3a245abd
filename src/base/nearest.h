// The known name that a misspelt one stands for.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace kineograph {

/// Letters to put in, leave out, replace or swap with their neighbour to make one of the other.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The entry of `known` that begins with `name`, or has the least distance to it; empty where `known` is, or where all
/// are further from `name` than a third of its letters (and than two): then it is no misspelling.
std::string_view nearest(std::string_view name, const std::vector<std::string_view>& known);

}  // namespace kineograph

// Views of the caller's memory, checked before anything reads them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "kineograph/tensor.h"

namespace kineograph::model {

/// Throws ArgumentError for a view that no memory can be behind: negative extents, extents or strides beyond the
/// address space, no memory, or memory that is not aligned for its dtype. An absent view, and one without elements, is
/// fine.
void check_view(std::string_view where, const TensorView& view);

/// First and last byte that a checked view with elements touches.
std::pair<std::uintptr_t, std::uintptr_t> extent(const TensorView& view);

/// Whether two checked views share a byte of their extents.
bool overlap(const TensorView& a, const TensorView& b);

}  // namespace kineograph::model

// Whether two tensors hold the same bits.
#pragma once

#include <cstring>

#include "kineograph/tensor.h"

namespace kineograph {

inline bool same_values(const TensorView& a, const TensorView& b) {
  if (a.dtype() != b.dtype() || !(a.shape() == b.shape())) return false;
  if (a.data() == b.data() && a.strides() == b.strides()) return true;
  const auto bytes = static_cast<std::size_t>(a.numel()) * size_of(a.dtype());
  if (a.is_contiguous() && b.is_contiguous()) return std::memcmp(a.data(), b.data(), bytes) == 0;
  const Tensor left = convert(a, a.dtype()), right = convert(b, b.dtype());
  return std::memcmp(left.data(), right.data(), bytes) == 0;
}

}  // namespace kineograph

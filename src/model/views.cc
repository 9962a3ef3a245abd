#include "model/views.h"

#include <algorithm>

#include "kineograph/error.h"

namespace kineograph::model {
namespace {

/// Offsets in bytes of the lowest and the highest element from the first; false where they cannot be told.
bool reach(const TensorView& view, std::int64_t& low, std::int64_t& high) {
  const auto size = static_cast<std::int64_t>(size_of(view.dtype()));
  low = high = 0;
  for (std::size_t axis = 0; axis < view.rank(); ++axis) {
    std::int64_t span = 0;
    if (__builtin_mul_overflow(view.size(axis) - 1, view.strides()[axis], &span) ||
        __builtin_mul_overflow(span, size, &span))
      return false;
    std::int64_t& end = span < 0 ? low : high;
    if (__builtin_add_overflow(end, span, &end)) return false;
  }
  return !__builtin_add_overflow(high, size, &high);
}

}  // namespace

void check_view(std::string_view where, const TensorView& view) {
  if (!view) return;
  const Shape& shape = view.shape();
  if (view.strides().size() != shape.size())
    throw ArgumentError(std::string(where), "a stride for each of " + std::to_string(shape.size()) + " axes",
                        std::to_string(view.strides().size()));
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t extent) { return extent < 0; }))
    throw ArgumentError(std::string(where), "extents of 0 or more", to_string(shape));
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t extent) { return extent == 0; })) return;
  std::int64_t count = 1, low = 0, high = 0;
  for (const std::int64_t extent : shape)
    if (__builtin_mul_overflow(count, extent, &count))
      throw ArgumentError(std::string(where), "fewer than 2^63 elements", to_string(shape));
  if (!reach(view, low, high))
    throw ArgumentError(std::string(where), "extents and strides within the address space",
                        to_string(shape) + " with strides " + to_string(view.strides()));
  if (view.data() == nullptr)
    throw ArgumentError(std::string(where), "memory of " + to_string(shape), "a null pointer");
  if (reinterpret_cast<std::uintptr_t>(view.data()) % size_of(view.dtype()) != 0)
    throw ArgumentError(std::string(where),
                        "memory aligned to the " + std::to_string(size_of(view.dtype())) + " bytes of " +
                            std::string(name_of(view.dtype())),
                        "an address between two elements");
}

std::pair<std::uintptr_t, std::uintptr_t> extent(const TensorView& view) {
  std::int64_t low = 0, high = 0;
  reach(view, low, high);
  const auto base = reinterpret_cast<std::uintptr_t>(view.data());
  return {base + static_cast<std::uintptr_t>(low), base + static_cast<std::uintptr_t>(high - 1)};
}

bool overlap(const TensorView& a, const TensorView& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto x = extent(a), y = extent(b);
  return x.first <= y.second && y.first <= x.second;
}

}  // namespace kineograph::model

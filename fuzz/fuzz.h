// What the fuzz targets share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kineograph/error.h"
#include "kineograph/tensor.h"

namespace kineograph::fuzz {

/// Runs `parse`; the library's own errors are what damaged input is for.
template <class Parse>
int expect_value_or_error(Parse&& parse) {
  try {
    parse();
  } catch (const Error&) {
  }
  return 0;
}

/// Reads every element, so that a view of what is not there is found.
inline void read_all(const TensorView& view) {
  constexpr std::int64_t kEnough = 1 << 20;  // strides of 0 make any size of a few bytes
  if (view.numel() > kEnough) return;
  const Tensor copy = convert(view, view.dtype());
  volatile std::size_t bytes = copy.bytes();
  (void)bytes;
}

inline std::string text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace kineograph::fuzz

// Assertions of the library's own bugs: alignment, ranges, counts, who owns a buffer. The caller's mistakes are errors
// (kineograph/error.h) instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

/// Checks `condition` and ends the process with the place and the condition on stderr where it does not hold: in debug
/// and sanitizer builds, which define KINEOGRAPH_ASSERTIONS. Elsewhere the condition is compiled and not evaluated.
#ifdef KINEOGRAPH_ASSERTIONS
#define KINEOGRAPH_ASSERT(condition) \
  static_cast<void>((condition) ? 0 : (::kineograph::assertion_failed(#condition, __FILE__, __LINE__), 0))
#else
#define KINEOGRAPH_ASSERT(condition) static_cast<void>(sizeof((condition) ? 1 : 0))
#endif

namespace kineograph {

[[noreturn]] inline void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: kineograph's own assertion does not hold: %s\n", file, line, condition);
  std::abort();
}

/// Whether an address is a multiple of `bytes`.
inline bool is_aligned(const void* address, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(address) % bytes == 0;
}

}  // namespace kineograph

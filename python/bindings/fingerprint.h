// Whether weights still are what they were when they were packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kineograph::python {

/// One number for `sizes` bytes at each of `addresses`: XXH3 of pieces of a megabyte, and of the pieces' numbers. The
/// same for any number of threads; helpers are started where there are megabytes for them, at most num_threads - 1.
std::uint64_t fingerprint(const std::vector<std::uintptr_t>& addresses, const std::vector<std::size_t>& sizes,
                          int num_threads);

}  // namespace kineograph::python

// NumPy's .npy files, as far as clips need them.
#pragma once

#include <iosfwd>
#include <string>

#include "kineograph/tensor.h"

namespace kineograph::video {

/// Reads one array: format versions 1 to 3, C or Fortran order, little-endian f2, f4, f8, i4 or i8. The result is
/// row-major. The stream must be seekable and hold nothing after the array. Nothing is allocated on the header's word
/// alone: its sizes are first held against the stream's. `where` names the source in errors.
/// Throws FormatError or IoError.
Tensor read_npy(std::istream& in, const std::string& where);

/// Writes `array` as version 1, C order. NumPy has no bf16: such an array is written as f4, which holds it exactly.
void write_npy(std::ostream& out, TensorView array);

}  // namespace kineograph::video

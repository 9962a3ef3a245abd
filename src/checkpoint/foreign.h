// Files that are no checkpoints but are given as such: what they are, and what helps.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace kineograph::checkpoint {

/// Throws FormatError, naming `where`, for bytes that begin as a known other kind of file does: an empty one, an HTML
/// page, a Git LFS pointer, GGUF, ONNX, HDF5, a plain pickle, compressed data, a text.
void refuse_foreign(std::span<const std::byte> bytes, std::string_view where);

}  // namespace kineograph::checkpoint

// The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.
// https://huggingface.co/docs/safetensors
#pragma once

#include <cstddef>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/atomic_file.h"
#include "kineograph/tensor.h"

namespace kineograph::checkpoint {

struct SafetensorsHeader {
  /// Views into the bytes that were parsed, or, where those are not aligned for their dtype, into `copies`.
  std::vector<std::pair<std::string, TensorView>> tensors;
  std::map<std::string, std::string> metadata;
  std::deque<Tensor> copies;
  /// Tensors of dtypes that are not read: name, and what it is.
  std::vector<std::pair<std::string, std::string>> opaque;
};

/// Checks everything the header claims before it returns: lengths, dtypes, shapes, and that the tensors cover the data
/// without a hole or an overlap. In memory of at most 64 times the header and 64 kB. `where` names the file in errors.
/// Throws FormatError.
SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

/// A tensor that is made when its turn comes to be written.
struct LazyTensor {
  std::string name;
  DType dtype;
  Shape shape;
  /// Returns its values, as `dtype` and `shape`: somebody's memory, or `scratch`.
  std::function<TensorView(Tensor& scratch)> make;
  /// Called once they are written, if set.
  std::function<void()> written = {};
};

/// Writes a safetensors file, a tensor at a time; see save_safetensors. The caller commits it. `on_progress` hears of
/// the bytes written so far and in all, at first of 0, and throws Cancelled by returning false.
void write_safetensors(AtomicFile& file, const std::vector<LazyTensor>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::function<bool(std::size_t, std::size_t)>& on_progress = {});

}  // namespace kineograph::checkpoint

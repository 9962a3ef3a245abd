// The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.
// https://huggingface.co/docs/safetensors
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kineograph/tensor.h"

namespace kineograph::checkpoint {

struct SafetensorsHeader {
  /// Views into the bytes that were parsed, or, where those are not aligned for their dtype, into `copies`.
  std::vector<std::pair<std::string, TensorView>> tensors;
  std::map<std::string, std::string> metadata;
  std::deque<Tensor> copies;
};

/// Checks everything the header claims before it returns: lengths, dtypes, shapes, and that the tensors cover the data
/// without a hole or an overlap. `where` names the file in errors. Throws FormatError.
SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

}  // namespace kineograph::checkpoint

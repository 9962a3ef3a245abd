// What torch.save writes: a zip archive of one pickle and the bytes of every storage, or, before PyTorch 1.6, pickles
// and bytes one after the other. Tensors come out as views of the file; nothing in it runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/zip.h"
#include "kineograph/tensor.h"

namespace kineograph::checkpoint {

/// Something in a file that is no tensor: "animatediff_config", "a dict of 12".
using OpaqueEntry = std::pair<std::string, std::string>;

struct TorchArchive {
  struct Entry {
    std::string name;
    TensorView view;     ///< of the bytes that were parsed, or, where those are not aligned, of `copies`
    std::size_t record;  ///< index of the storage's entry in `records`; none in the older format
  };
  std::vector<Entry> tensors;
  std::vector<OpaqueEntry> opaque;
  std::vector<ZipEntry> records;  ///< empty for the older format, which has no checksums
  std::deque<Tensor> copies;
};

/// Whether the bytes begin as either format does.
bool looks_like_torch(std::span<const std::byte> bytes) noexcept;

/// Throws FormatError, naming `where`, for anything that is damaged or that only a running pickle could make sense of.
TorchArchive parse_torch(std::span<const std::byte> bytes, std::string_view where);

}  // namespace kineograph::checkpoint

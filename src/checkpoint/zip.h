// The directory of a zip archive whose entries are stored, as torch.save writes them.
//
// libzip would do, but does not say where an entry's bytes lie, and those are mapped here, not read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kineograph::checkpoint {

struct ZipEntry {
  std::string name;
  std::span<const std::byte> bytes;
  std::optional<std::uint32_t> crc32 = {};  ///< none in archives that were written without checksums
};

/// Every entry in the directory's order. Throws FormatError, naming `where`, for what is no zip archive, is truncated,
/// lies about sizes, overlaps, names an entry twice, has two entries with one header, or is compressed.
std::vector<ZipEntry> read_zip(std::span<const std::byte> bytes, std::string_view where);

/// Whether the bytes begin as a zip archive does.
bool looks_like_zip(std::span<const std::byte> bytes) noexcept;

/// Reads the whole entry. Throws FormatError when its bytes are not those that were written.
void check_crc32(const ZipEntry& entry, std::string_view where);

}  // namespace kineograph::checkpoint

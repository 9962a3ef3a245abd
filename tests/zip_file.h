// A zip archive of stored entries in memory, for tests and fuzzers of what reads them.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace kineograph {

inline std::string zip_file(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string file, directory;
  const auto put = [](std::string& out, std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out += i < 8 ? static_cast<char>(value >> 8 * i) : char{0};
  };
  for (const auto& [name, content] : entries) {
    const std::size_t header = file.size();
    const auto crc = ::crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size());
    std::string common;  // what both headers have: version, flags, method, time, CRC, sizes, lengths
    for (const std::uint64_t value : {20, 0, 0, 0, 0}) put(common, value, 2);
    put(common, crc, 4);
    put(common, content.size(), 4);
    put(common, content.size(), 4);
    put(common, name.size(), 2);
    // As torch does: the content starts at a multiple of 64 bytes.
    const std::size_t padding = (64 - (header + 30 + name.size()) % 64) % 64;
    put(file, 0x04034b50, 4);
    file += common;
    put(file, padding, 2);
    file += name + std::string(padding, 'Z') + content;
    put(directory, 0x02014b50, 4);
    put(directory, 20, 2);
    directory += common;
    put(directory, 0, 12);  // extra, comment, disk, attributes
    put(directory, header, 4);
    directory += name;
  }
  std::string end;
  put(end, 0x06054b50, 4);
  put(end, 0, 4);
  put(end, entries.size(), 2);
  put(end, entries.size(), 2);
  put(end, directory.size(), 4);
  put(end, file.size(), 4);
  put(end, 0, 2);
  return file + directory + end;
}

/// The bytes in memory that is aligned as a mapped file's.
class AlignedBytes {
 public:
  explicit AlignedBytes(const std::string& bytes) : memory_(bytes.size() / 8 + 1), size_(bytes.size()) {
    std::memcpy(memory_.data(), bytes.data(), bytes.size());
  }
  std::span<const std::byte> span() const { return {reinterpret_cast<const std::byte*>(memory_.data()), size_}; }

 private:
  std::vector<std::uint64_t> memory_;
  std::size_t size_;
};

}  // namespace kineograph

#include "checkpoint/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/text.h"
#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

constexpr std::uint32_t kEntry = 0x04034b50, kDirectoryEntry = 0x02014b50, kEnd = 0x06054b50;
constexpr std::uint32_t kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr std::size_t kEntrySize = 30, kDirectoryEntrySize = 46, kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr std::size_t kLongestComment = 65535;
constexpr std::uint16_t kZip64Extra = 1;
constexpr std::uint32_t kIn64 = 0xffffffff;

/// Little-endian numbers at checked places.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}
  template <class T>
  T at(std::uint64_t position) const {
    need(position, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + position, sizeof(T));
    return value;
  }
  std::span<const std::byte> range(std::uint64_t position, std::uint64_t size) const {
    need(position, size);
    return bytes_.subspan(position, size);
  }
  std::uint64_t size() const { return bytes_.size(); }
  [[noreturn]] void refuse(const std::string& expected, const std::string& found) const {
    throw FormatError(where_, expected, found, "The file is damaged, or no torch archive.");
  }

 private:
  void need(std::uint64_t position, std::uint64_t size) const {
    if (position > bytes_.size() || size > bytes_.size() - position)
      refuse("a zip archive", std::to_string(size) + " bytes at " + std::to_string(position) + " beyond its end");
  }
  std::span<const std::byte> bytes_;
  std::string where_;
};

struct Directory {
  std::uint64_t position = 0, size = 0, entries = 0;
};

Directory find_directory(const Reader& in) {
  if (in.size() < kEndSize) in.refuse("a zip archive", std::to_string(in.size()) + " bytes");
  const std::uint64_t last = in.size() - kEndSize;
  for (std::uint64_t back = 0; back <= std::min<std::uint64_t>(last, kLongestComment); ++back) {
    const std::uint64_t end = last - back;
    if (in.at<std::uint32_t>(end) != kEnd || in.at<std::uint16_t>(end + 20) != back) continue;
    Directory directory{in.at<std::uint32_t>(end + 16), in.at<std::uint32_t>(end + 12), in.at<std::uint16_t>(end + 10)};
    if (end >= kLocatorSize && in.at<std::uint32_t>(end - kLocatorSize) == kEnd64Locator) {
      const auto end64 = in.at<std::uint64_t>(end - kLocatorSize + 8);
      in.range(end64, kEnd64Size);
      if (in.at<std::uint32_t>(end64) != kEnd64) in.refuse("a zip64 directory", "another signature");
      directory = {in.at<std::uint64_t>(end64 + 48), in.at<std::uint64_t>(end64 + 40),
                   in.at<std::uint64_t>(end64 + 32)};
    }
    return directory;
  }
  in.refuse("the directory at the end of a zip archive", "none");
}

/// What the directory says of one entry; 64-bit values come from the extra field.
struct Entry {
  std::uint64_t size = 0, stored = 0, header = 0;
};

void read_zip64(const Reader& in, std::uint64_t extra, std::uint64_t length, Entry& entry) {
  const std::uint64_t end = extra + length;
  while (extra + 4 <= end) {
    const auto tag = in.at<std::uint16_t>(extra);
    const auto size = in.at<std::uint16_t>(extra + 2);
    std::uint64_t at = extra + 4;
    extra = at + size;
    if (tag != kZip64Extra) continue;
    for (std::uint64_t* value : {&entry.size, &entry.stored, &entry.header})
      if (*value == kIn64 && at + 8 <= extra) {
        *value = in.at<std::uint64_t>(at);
        at += 8;
      }
  }
}

/// Entries follow each other, and each has a header of its own before its bytes: those of an empty entry, too, lie
/// where no other entry's do.
void refuse_overlaps(const Reader& in, const std::vector<ZipEntry>& entries) {
  std::vector<const ZipEntry*> order;
  for (const ZipEntry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const ZipEntry* a, const ZipEntry* b) {
    return a->bytes.data() != b->bytes.data() ? a->bytes.data() < b->bytes.data() : a->bytes.size() < b->bytes.size();
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const ZipEntry &before = *order[i - 1], &after = *order[i];
    if (before.bytes.data() + before.bytes.size() + kEntrySize > after.bytes.data())
      in.refuse("entries that do not overlap", shortened(before.name) + " and " + shortened(after.name) + ", which do");
  }
}

/// torch.serialization.set_crc32_options(False) writes 0 for every checksum. A lone 0 is a checksum like any other.
void forget_absent_checksums(std::vector<ZipEntry>& entries) {
  if (std::all_of(entries.begin(), entries.end(), [](const ZipEntry& entry) { return entry.crc32 == 0u; }))
    for (ZipEntry& entry : entries) entry.crc32.reset();
}

}  // namespace

bool looks_like_zip(std::span<const std::byte> bytes) noexcept {
  std::uint32_t signature = 0;
  if (bytes.size() >= sizeof(signature)) std::memcpy(&signature, bytes.data(), sizeof(signature));
  return signature == kEntry;
}

std::vector<ZipEntry> read_zip(std::span<const std::byte> bytes, std::string_view where) {
  const Reader in(bytes, where);
  const Directory directory = find_directory(in);
  in.range(directory.position, directory.size);
  if (directory.entries > directory.size / kDirectoryEntrySize)
    in.refuse("a directory of " + std::to_string(directory.entries) + " entries",
              std::to_string(directory.size) + " bytes of it");
  std::vector<ZipEntry> entries;
  std::unordered_set<std::string> names;
  std::uint64_t at = directory.position;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (in.at<std::uint32_t>(at) != kDirectoryEntry)
      in.refuse("entry " + std::to_string(i) + " of the directory", "none");
    const auto flags = in.at<std::uint16_t>(at + 8), method = in.at<std::uint16_t>(at + 10);
    const auto name_length = in.at<std::uint16_t>(at + 28), extra = in.at<std::uint16_t>(at + 30),
               comment = in.at<std::uint16_t>(at + 32);
    Entry entry{in.at<std::uint32_t>(at + 24), in.at<std::uint32_t>(at + 20), in.at<std::uint32_t>(at + 42)};
    const auto name_bytes = in.range(at + kDirectoryEntrySize, name_length);
    const std::string name(reinterpret_cast<const char*>(name_bytes.data()), name_bytes.size());
    read_zip64(in, at + kDirectoryEntrySize + name_length, extra, entry);
    if (!names.insert(name).second) in.refuse("every entry once", shortened(name) + " twice");
    if (method != 0 || entry.size != entry.stored || (flags & 1) != 0)
      in.refuse("entries stored as they are", shortened(name) + ", which is compressed or encrypted");
    if (in.at<std::uint32_t>(entry.header) != kEntry)
      in.refuse("entry " + shortened(name), "none where the directory says");
    const std::uint64_t data =
        entry.header + kEntrySize + in.at<std::uint16_t>(entry.header + 26) + in.at<std::uint16_t>(entry.header + 28);
    entries.push_back({name, in.range(data, entry.size), in.at<std::uint32_t>(at + 16)});
    at += kDirectoryEntrySize + name_length + extra + comment;
  }
  refuse_overlaps(in, entries);
  forget_absent_checksums(entries);
  return entries;
}

void check_crc32(const ZipEntry& entry, std::string_view where) {
  if (!entry.crc32) return;
  const auto found = ::crc32_z(0, reinterpret_cast<const Bytef*>(entry.bytes.data()), entry.bytes.size());
  if (found == entry.crc32) return;
  char expected[16], computed[16];
  std::snprintf(expected, sizeof expected, "%08x", *entry.crc32);
  std::snprintf(computed, sizeof computed, "%08x", static_cast<std::uint32_t>(found));
  throw FormatError(std::string(where) + ": " + shortened(entry.name), std::string("bytes of CRC-32 ") + expected,
                    computed, "The file is damaged.");
}

}  // namespace kineograph::checkpoint

#include "checkpoint/torch_archive.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

#include "checkpoint/pickle.h"
#include "checkpoint/torch_tensors.h"
#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "torch archives are little-endian, and read in place");

// The older format begins with a pickle of this number (a LONG1 of 10 bytes), a protocol version and a dict about the
// machine; then the object, the list of its storages' keys, and each storage as its number of elements and its bytes.
constexpr unsigned char kLegacyMagic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c,
                                          0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

bool looks_like_legacy(std::span<const std::byte> bytes) {
  return bytes.size() >= sizeof(kLegacyMagic) && std::memcmp(bytes.data(), kLegacyMagic, sizeof(kLegacyMagic)) == 0;
}

TorchArchive parse_legacy(std::span<const std::byte> bytes, const std::string& where) {
  std::size_t at = 0;
  const auto next = [&] {
    Pickle pickle = read_pickle(bytes.subspan(at), where);
    at += pickle.size;
    return pickle;
  };
  next();  // the magic number
  next();  // the protocol
  const Pickle machine = next();
  const PickleValue* little = machine.find(machine.at(machine.root), "little_endian");
  if (little != nullptr && little->integer == 0)
    throw FormatError(where, "little-endian numbers", "those of a big-endian machine");
  const Pickle object = next(), keys = next();
  const std::unordered_map<std::string, std::size_t> sizes = element_sizes(object);
  Storages storages;
  for (const PickleRef ref : keys.items(keys.at(keys.root))) {
    const std::string key(keys.text(keys.at(ref)));
    std::uint64_t count = 0;
    const auto size = sizes.find(key);
    if (size == sizes.end() || bytes.size() - at < sizeof(count))
      throw FormatError(where + ": storage " + key, "a storage that a tensor uses", "none, or the file's end");
    std::memcpy(&count, bytes.data() + at, sizeof(count));
    at += sizeof(count);
    if (count > (bytes.size() - at) / size->second)
      throw FormatError(where + ": storage " + key, std::to_string(count) + " elements", "the file's end",
                        "The file is truncated.");
    storages[key] = {bytes.subspan(at, count * size->second), 0};
    at += count * size->second;
  }
  TorchArchive archive;
  find_tensors(object, where, storages, archive);
  return archive;
}

}  // namespace

bool looks_like_torch(std::span<const std::byte> bytes) noexcept {
  return looks_like_zip(bytes) || looks_like_legacy(bytes);
}

TorchArchive parse_torch(std::span<const std::byte> bytes, std::string_view file) {
  const std::string where(file);
  if (looks_like_legacy(bytes)) return parse_legacy(bytes, where);
  TorchArchive archive;
  archive.records = read_zip(bytes, where);
  // All entries are in one folder, whatever its name is.
  const auto pickle_entry = std::find_if(archive.records.begin(), archive.records.end(), [](const ZipEntry& entry) {
    return entry.name == "data.pkl" || entry.name.ends_with("/data.pkl");
  });
  if (pickle_entry == archive.records.end())
    throw FormatError(where, "data.pkl, as torch.save writes it", "a zip archive without it");
  const std::string folder = pickle_entry->name.substr(0, pickle_entry->name.size() - std::strlen("data.pkl"));
  Storages storages;
  for (std::size_t i = 0; i < archive.records.size(); ++i) {
    const ZipEntry& entry = archive.records[i];
    if (entry.name == folder + "byteorder" &&
        std::string_view(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()) != "little")
      throw FormatError(where + ": " + entry.name, "little", "another byte order");
    if (entry.name.starts_with(folder + "data/")) storages[entry.name.substr(folder.size() + 5)] = {entry.bytes, i};
  }
  check_crc32(*pickle_entry, where);
  const Pickle pickle = read_pickle(pickle_entry->bytes, where + ": " + pickle_entry->name);
  find_tensors(pickle, where, storages, archive);
  return archive;
}

}  // namespace kineograph::checkpoint

// The tree of values that a pickle of torch makes -> named tensors.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "checkpoint/pickle.h"
#include "checkpoint/torch_archive.h"

namespace kineograph::checkpoint {

/// A storage's bytes, and the index of its record.
using StorageBytes = std::pair<std::span<const std::byte>, std::size_t>;
using Storages = std::unordered_map<std::string, StorageBytes>;

/// Adds the tensors of `pickle` to `archive`, by their paths: the keys of all dictionaries above, with dots between;
/// what holds no tensor becomes an opaque entry. Names take at most 16 bytes for each of the pickle's and 64 kB. Throws
/// FormatError, naming `where`, for tensors that do not fit their storages, and for what holds no tensors at all.
void find_tensors(const Pickle& pickle, const std::string& where, const Storages& storages, TorchArchive& archive);

/// Bytes of an element of every storage that the pickle refers to, by the storage's key.
std::unordered_map<std::string, std::size_t> element_sizes(const Pickle& pickle);

}  // namespace kineograph::checkpoint

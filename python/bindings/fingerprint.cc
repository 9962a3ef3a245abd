#include "fingerprint.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <system_error>
#include <thread>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kineograph/error.h"

namespace kineograph::python {
namespace {

/// Bytes that are hashed at a time: few enough to share evenly, many enough to run at memory's speed.
constexpr std::size_t kPiece = std::size_t{1} << 20;
/// Bytes that are worth a thread: starting one takes as long as hashing some hundred kilobytes.
constexpr std::size_t kPerThread = std::size_t{4} << 20;

struct Piece {
  const char* data;
  std::size_t size;
};

}  // namespace

std::uint64_t fingerprint(const std::vector<std::uintptr_t>& addresses, const std::vector<std::size_t>& sizes,
                          int num_threads) {
  if (addresses.size() != sizes.size())
    throw ArgumentError("sizes", std::to_string(addresses.size()), std::to_string(sizes.size()));
  std::vector<Piece> pieces;
  std::size_t total = 0;
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    const auto* data = reinterpret_cast<const char*>(addresses[i]);
    for (std::size_t at = 0; at < sizes[i]; at += kPiece)
      pieces.push_back({data + at, std::min(kPiece, sizes[i] - at)});
    total += sizes[i];
  }
  // The sizes belong to what is hashed: the same bytes cut otherwise are other weights.
  std::vector<XXH64_hash_t> hashes(pieces.size());
  hashes.insert(hashes.end(), sizes.begin(), sizes.end());

  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < pieces.size(); i = next++) hashes[i] = XXH3_64bits(pieces[i].data, pieces[i].size);
  };
  const std::size_t useful = std::min<std::size_t>(total / kPerThread, pieces.size());
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < std::min<std::size_t>(useful, std::max(num_threads, 1)); ++i) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those there are do it
    }
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  return XXH3_64bits(hashes.data(), hashes.size() * sizeof(XXH64_hash_t));
}

}  // namespace kineograph::python

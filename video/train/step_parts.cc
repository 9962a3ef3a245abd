#include "video/train/step_parts.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/gathered.h"
#include "base/share.h"

namespace kineograph::video {
namespace {

/// Values of a part that are gathered at a time: half a megabyte, however large the model.
constexpr std::size_t kPiece = std::size_t{1} << 17;

}  // namespace

std::vector<double> gather_parts(Communicator* ranks, std::int64_t parts, std::vector<double> own, std::size_t each) {
  if (ranks == nullptr) return own;
  const int size = ranks->size();
  // Ranks send equally many values: those of one with fewer parts end in zeros.
  const std::size_t most = static_cast<std::size_t>((parts + size - 1) / size) * each;
  own.resize(most);
  const std::vector<double> padded = gathered(*ranks, own);
  std::vector<double> values;
  for (int rank = 0; rank < size; ++rank) {
    const auto from = padded.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(rank) * most);
    const std::size_t count = static_cast<std::size_t>(share_of(parts, rank, size).count) * each;
    values.insert(values.end(), from, from + static_cast<std::ptrdiff_t>(count));
  }
  return values;
}

void add_parts(Communicator* ranks, std::int64_t parts, const std::vector<std::vector<float>>& own,
               std::span<float> sum) {
  for (std::size_t begin = 0; begin < sum.size(); begin += kPiece) {
    const std::size_t count = std::min(kPiece, sum.size() - begin);
    // Two floats travel as the bytes of one double, in which nothing is computed.
    const std::size_t each = (count + 1) / 2;
    std::vector<double> packed(own.size() * each);
    for (std::size_t part = 0; part < own.size(); ++part)
      std::memcpy(packed.data() + part * each, own[part].data() + begin, count * sizeof(float));
    packed = gather_parts(ranks, parts, std::move(packed), each);
    std::vector<float> values(2 * each);
    std::vector<double> total(count);
    for (std::size_t part = 0; part < static_cast<std::size_t>(parts); ++part) {
      std::memcpy(values.data(), packed.data() + part * each, each * sizeof(double));
      // The first part is taken as it is: 0 + -0 is 0.
      for (std::size_t i = 0; i < count; ++i) {
        const auto value = static_cast<double>(values[i]);
        total[i] = part == 0 ? value : total[i] + value;
      }
    }
    for (std::size_t i = 0; i < count; ++i) sum[begin + i] = static_cast<float>(total[i]);
  }
}

}  // namespace kineograph::video

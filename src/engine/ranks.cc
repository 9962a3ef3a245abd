#include "engine/ranks.h"

#include <algorithm>
#include <array>

#include "base/assert.h"
#include "base/gathered.h"
#include "kineograph/error.h"

namespace kineograph::engine {
namespace {

static_assert(sizeof(Moments) == 3 * sizeof(double), "moments travel as doubles");

/// What a rank's message begins with.
constexpr double kRefused = 0.0, kGoesOn = 1.0;

/// A value that all ranks have to have in common, and its name.
struct Fact {
  const char* name;
  double value;
};

constexpr std::size_t kFacts = 12, kHeader = 3;  // state, first row, rows

std::array<Fact, kFacts> facts_of(const SharedCall& call) {
  const auto number = [](auto value) { return static_cast<double>(value); };
  return {{{"the call (0: forward, 1: backward)", number(call.backward)},
           {"total_image_rows", number(call.total_rows)},
           {"videos in hidden_states", number(call.videos)},
           {"num_frames", number(call.frames)},
           {"channels of hidden_states", number(call.channels)},
           {"width of hidden_states", number(call.width)},
           {"sets of GroupNorm's statistics", number(call.sets)},
           {"norm_num_groups", number(call.groups)},
           {"timestep, class_labels or training_seed (a hash)", number(call.arguments >> 32)},
           {"timestep, class_labels or training_seed (a hash)", number(call.arguments & 0xffffffffu)},
           {"gradients.hidden_states (1: wanted)", number(call.wants_input)},
           {"kineograph's exchange", 1.0}}};
}

std::string number(double value) { return std::to_string(static_cast<std::int64_t>(value)); }

std::string rank_name(std::size_t rank) { return "rank " + std::to_string(rank); }

}  // namespace

void Ranks::refuse(Communicator& communicator) noexcept {
  const std::array<double, kHeader + kFacts> message{kRefused};
  try {
    gathered(communicator, message);
  } catch (...) {
    // The refusal itself is what the caller hears of.
  }
}

std::vector<double> Ranks::exchange(std::span<const double> mine) {
  std::vector<double> all = gathered(communicator_, mine);
  for (std::size_t rank = 0; rank * mine.size() < all.size(); ++rank)
    if (all[rank * mine.size()] != kGoesOn)
      throw CommunicationError("communicator", "every rank's part of the call",
                               "that of " + rank_name(rank) + " failed", "That rank has its own error.");
  return all;
}

void Ranks::agree(const SharedCall& call) {
  call_ = call;
  due_.clear();
  const std::array<Fact, kFacts> facts = facts_of(call);
  std::array<double, kHeader + kFacts> mine{kGoesOn, static_cast<double>(call.first_row),
                                            static_cast<double>(call.rows)};
  for (std::size_t i = 0; i < kFacts; ++i) mine[kHeader + i] = facts[i].value;
  const std::vector<double> all = exchange(mine);
  rows_.clear();
  std::size_t with_rows = 0;  // a rank whose gradients are known to be wanted or not
  for (std::size_t rank = 0; rank * mine.size() < all.size(); ++rank) {
    const double* message = all.data() + rank * mine.size();
    rows_.push_back({static_cast<std::int64_t>(message[1]), static_cast<std::int64_t>(message[2])});
    if (rows_[with_rows].count == 0) with_rows = rank;
  }
  constexpr std::size_t kWanted = kFacts - 2;
  for (std::size_t rank = 0; rank < rows_.size(); ++rank)
    for (std::size_t i = 0; i < kFacts; ++i) {
      const std::size_t like = i == kWanted ? with_rows : 0;
      const double first = all[like * mine.size() + kHeader + i], other = all[rank * mine.size() + kHeader + i];
      if (first != other && !(i == kWanted && rows_[rank].count == 0))
        throw ArgumentError(facts[i].name, "the same on every rank",
                            number(first) + " on " + rank_name(like) + ", " + number(other) + " on " + rank_name(rank));
    }
  check_rows();
  call_.wants_input = all[with_rows * mine.size() + kHeader + kWanted] != 0.0;
  const auto groups = static_cast<std::size_t>(call.groups);
  if (call.sets != 0) due_.push_back(3 * groups);
  if (call.sets != 0 && call.backward && call_.wants_input) due_.push_back(2 * groups);
}

void Ranks::check_rows() const {
  std::vector<std::size_t> order;
  for (std::size_t rank = 0; rank < rows_.size(); ++rank)
    if (rows_[rank].count != 0) order.push_back(rank);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rows_[a].first < rows_[b].first; });
  std::int64_t next = 0;
  const auto refuse = [&](const std::string& found) {
    throw ArgumentError("first_image_row", "rows 0 to " + std::to_string(call_.total_rows - 1) + ", each of one rank",
                        found);
  };
  for (const std::size_t rank : order) {
    const Rows& rows = rows_[rank];
    if (rows.first > next) refuse("row " + std::to_string(next) + " of no rank");
    if (rows.first < next)
      refuse("row " + std::to_string(rows.first) + " of two ranks, one of them " + rank_name(rank));
    next = rows.first + rows.count;
  }
  if (next != call_.total_rows) refuse("rows up to " + std::to_string(next - 1));
}

std::size_t Ranks::most_rows() const {
  std::int64_t most = 0;
  for (const Rows& rows : rows_) most = std::max(most, rows.count);
  return static_cast<std::size_t>(most);
}

std::vector<double> Ranks::gather(std::span<const double> own) {
  KINEOGRAPH_ASSERT(!due_.empty());
  const std::size_t each = due_.front(), sets = static_cast<std::size_t>(call_.sets), most = most_rows();
  const auto count = static_cast<std::size_t>(call_.rows), total = static_cast<std::size_t>(call_.total_rows);
  KINEOGRAPH_ASSERT(own.size() == sets * count * each);
  std::vector<double> mine(1 + sets * most * each);
  mine[0] = kGoesOn;
  for (std::size_t set = 0; set < sets; ++set)
    std::copy_n(own.data() + set * count * each, count * each, mine.data() + 1 + set * most * each);
  const std::vector<std::size_t> later(due_.begin() + 1, due_.end());
  due_.clear();  // a rank or the connection that fails here fails for good
  const std::vector<double> all = exchange(mine);
  due_ = later;
  std::vector<double> rows(sets * total * each);
  for (std::size_t rank = 0; rank < rows_.size(); ++rank)
    for (std::size_t set = 0; set < sets; ++set)
      std::copy_n(all.data() + rank * mine.size() + 1 + set * most * each,
                  static_cast<std::size_t>(rows_[rank].count) * each,
                  rows.data() + (set * total + static_cast<std::size_t>(rows_[rank].first)) * each);
  return rows;
}

std::vector<Moments> Ranks::gather_moments(std::span<const Moments> own) {
  const std::vector<double> all = gather({reinterpret_cast<const double*>(own.data()), 3 * own.size()});
  std::vector<Moments> moments(all.size() / 3);
  for (std::size_t i = 0; i < moments.size(); ++i) moments[i] = {all[3 * i], all[3 * i + 1], all[3 * i + 2]};
  return moments;
}

std::vector<double> Ranks::gather_sums(std::span<const double> own) { return gather(own); }

void Ranks::sit_out() {
  while (!due_.empty()) gather({});
}

void Ranks::fail() noexcept {
  if (due_.empty()) return;
  try {
    const std::vector<double> mine(1 + static_cast<std::size_t>(call_.sets) * most_rows() * due_.front(), kRefused);
    due_.clear();
    gathered(communicator_, mine);
  } catch (...) {
    // The failure itself is what the caller hears of.
  }
}

}  // namespace kineograph::engine

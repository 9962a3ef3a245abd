// What the processes that share one clip exchange in a call: each has rows of pixels of its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/moments.h"
#include "kineograph/communicator.h"

namespace kineograph::engine {

/// A call, as far as all ranks have to agree about it.
struct SharedCall {
  std::int64_t first_row = 0, rows = 0;  ///< this rank's rows of pixels
  std::int64_t total_rows = 0;           ///< of the whole picture
  bool backward = false;
  bool wants_input = false;  ///< backward: the gradient of hidden_states; without effect for a rank without rows
  std::int64_t videos = 0, frames = 0, channels = 0, width = 0;
  std::int64_t sets = 0;    ///< of GroupNorm's statistics: videos or frames; 0 for discrete latents
  std::int64_t groups = 0;  ///< of channels
  /// Hash of what else has to be equal: timesteps, labels, the seed of dropout.
  std::uint64_t arguments = 0;
};

/// One call's exchanges. Every rank makes the same ones, in the same order; one that cannot go on says so in the next.
/// Values travel by rows of the whole picture and are added up in the rows' order, which makes a result independent of
/// how the rows are shared out.
class Ranks {
 public:
  explicit Ranks(Communicator& communicator) : communicator_(communicator) {}

  /// Takes part in agree() with nothing but the news that this rank's call was refused.
  static void refuse(Communicator& communicator) noexcept;
  /// The first exchange. Throws the same ArgumentError on every rank if they differ about the call, or their rows are
  /// not every row of the picture once; CommunicationError if a rank refused.
  void agree(const SharedCall& call);

  /// Moments (sets, total_rows, groups) of (sets, rows, groups): the second exchange.
  std::vector<Moments> gather_moments(std::span<const Moments> own);
  /// The two sums of GroupNorm's backward, (sets, total_rows, groups, 2) of (sets, rows, groups, 2): the third one, of
  /// a backward that wants the input's gradient.
  std::vector<double> gather_sums(std::span<const double> own);
  /// Makes the exchanges that are left, for a rank without rows.
  void sit_out();
  /// Tells the others, who may be waiting, that this rank's call has failed.
  void fail() noexcept;

  const SharedCall& call() const { return call_; }

 private:
  /// Rows of one rank.
  struct Rows {
    std::int64_t first = 0, count = 0;
  };

  std::vector<double> exchange(std::span<const double> mine);
  /// (sets, total_rows, each) of (sets, rows, each), which is what is due next.
  std::vector<double> gather(std::span<const double> own);
  void check_rows() const;
  std::size_t most_rows() const;

  Communicator& communicator_;
  SharedCall call_;
  std::vector<Rows> rows_;        ///< by rank
  std::vector<std::size_t> due_;  ///< values a row and set of the exchanges that are left
};

}  // namespace kineograph::engine

// Threads of this process as the ranks of a call.
#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "kineograph/communicator.h"
#include "kineograph/error.h"

namespace kineograph::testing {

/// Where the threads meet. One that waits longer than `patience` for the others throws CommunicationError.
class Meeting {
 public:
  Meeting(int size, std::chrono::milliseconds patience) : size_(size), patience_(patience) {}
  int size() const { return size_; }

  void gather(int rank, std::span<const double> mine, std::span<double> all) {
    std::unique_lock lock(mutex_);
    const auto wait = [&](auto&& done) {
      if (!changed_.wait_for(lock, patience_, done))
        throw CommunicationError("communicator", "values of every rank", "none from some");
    };
    wait([&] { return !leaving_; });
    if (arrived_ == 0) values_.assign(all.size(), 0.0);
    if (values_.size() != all.size()) throw CommunicationError("communicator", "equal sizes", "others");
    std::copy(mine.begin(), mine.end(), values_.begin() + rank * static_cast<std::ptrdiff_t>(mine.size()));
    ++exchanges;
    if (++arrived_ == size_) leaving_ = true;
    changed_.notify_all();
    wait([&] { return leaving_; });
    std::copy(values_.begin(), values_.end(), all.begin());
    if (--arrived_ == 0) leaving_ = false;
    changed_.notify_all();
  }

  int exchanges = 0;  ///< that ranks took part in, of all together

 private:
  int size_;
  std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<double> values_;
  int arrived_ = 0;
  bool leaving_ = false;
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size(); }
  void all_gather(std::span<const double> mine, std::span<double> all) override { meeting_.gather(rank_, mine, all); }

 private:
  Meeting& meeting_;
  int rank_;
};

/// body(communicator) in a thread a rank; what each threw, or null.
inline std::vector<std::exception_ptr> run_ranks(int size, const std::function<void(Communicator&)>& body,
                                                 std::chrono::milliseconds patience = std::chrono::seconds(60)) {
  Meeting meeting(size, patience);
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      ThreadRank own(meeting, rank);
      try {
        body(own);
      } catch (...) {
        thrown[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

}  // namespace kineograph::testing

// Threads of an executor for as long as a call lasts.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <vector>

#include "kineograph/executor.h"

namespace kineograph::engine::cpu {

/// A reference to work on one index; unlike std::function it never allocates.
class IndexWork {
 public:
  template <class Work>
  explicit IndexWork(const Work& work)
      : work_(&work), call_([](const void* w, std::size_t i) { (*static_cast<const Work*>(w))(i); }) {}
  void operator()(std::size_t i) const { call_(work_, i); }

 private:
  const void* work_;
  void (*call_)(const void*, std::size_t);
};

/// One of the threads runs the call. The loops that it opens, and those that their pieces open, are taken piece by
/// piece by all that have come. Nobody waits for a thread that has not: an executor may run its bodies one after the
/// other.
class Region {
 public:
  Region(Executor& executor, int threads) : executor_(executor), threads_(static_cast<std::size_t>(threads)) {}
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  Executor& executor() const noexcept { return executor_; }
  std::size_t threads() const noexcept { return threads_; }

  /// Calls body(0) on one of the threads, and returns when all have left. Throws what it throws.
  void run(const IndexWork& body);
  /// Calls piece(i) for every i below `count`. A thread that waits for the last pieces takes up those of other loops of
  /// the region meanwhile, unless `isolated`. The first exception ends the loop early and is thrown here.
  void spread(std::size_t count, const IndexWork& piece, bool isolated);

 private:
  struct Loop {
    const IndexWork& piece;
    std::size_t count, next = 0, running = 0;
    std::exception_ptr failure = {};
  };
  using Lock = std::unique_lock<std::mutex>;

  void take_part(const IndexWork& body);
  void run_some(Loop& loop, Lock& lock);
  void close(const Loop& loop);

  Executor& executor_;
  std::size_t threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Loop*> open_;  ///< with pieces that nobody has begun, the innermost last
  bool begun_ = false, over_ = false;
  std::exception_ptr failure_;  ///< of the body
};

}  // namespace kineograph::engine::cpu

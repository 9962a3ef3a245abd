#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "kineograph/error.h"

namespace kineograph {
namespace {

/// Threads that are waited for on every way out: an exception that meets a joinable thread would end the process.
class Threads {
 public:
  Threads() = default;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { join(); }
  template <class Work>
  void start(const Work& work) {
    threads_.emplace_back(work);
  }
  void join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::vector<std::thread> threads_;
};

}  // namespace

int available_cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int thread_count(int asked) {
  const int cores = available_cores(), most = std::max(4, cores);
  if (asked > 0) return std::min(asked, most);
  const char* text = std::getenv("KINEOGRAPH_NUM_THREADS");
  const int wanted = text != nullptr ? std::atoi(text) : 0;
  return wanted > 0 ? std::min(wanted, most) : cores;
}

void parallel_for(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto loop = [&] {
    try {
      for (std::int64_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  Threads others;
  try {
    for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, count); ++i) others.start(loop);
  } catch (const std::exception&) {
    // The threads that were made do all the work.
  }
  loop();
  others.join();
  if (failure) std::rethrow_exception(failure);
}

void run_at_once(int count, const std::function<void(int)>& work) {
  Threads others;
  try {
    for (int i = 1; i < count; ++i) others.start([&work, i] { work(i); });
  } catch (const std::system_error& error) {
    throw IoError("threads", std::to_string(count) + " of them", error.what());
  }
  work(0);
}

}  // namespace kineograph

#include "base/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <limits>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "base/printable.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

constexpr const char* kSetting = "KINEOGRAPH_NUM_THREADS";

std::atomic<int> running{0};
std::atomic<bool> forked{false}, fork_met_calls{false};

[[maybe_unused]] const int watching = ::pthread_atfork(nullptr, nullptr, [] {
  forked = true;
  fork_met_calls = running.exchange(0) != 0;
});

/// KINEOGRAPH_NUM_THREADS, if it is a number above 0.
std::optional<int> setting() {
  const char* text = std::getenv(kSetting);
  if (text == nullptr) return {};
  const std::string_view all(text);
  int value = 0;
  const auto [end, error] = std::from_chars(all.data(), all.data() + all.size(), value);
  if (error == std::errc::result_out_of_range && all.find_first_not_of("0123456789") == std::string_view::npos)
    return std::numeric_limits<int>::max();
  return error == std::errc() && end == all.data() + all.size() && value > 0 ? std::optional(value) : std::nullopt;
}

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

int thread_count(int asked) {
  if (forked) return 1;
  const int cores = available_cores(), most = std::max(4, cores);
  if (asked > 0) return std::min(asked, most);
  return std::min(setting().value_or(cores), most);
}

std::string take_thread_setting_problem() {
  static std::atomic<bool> told{false};
  const char* text = std::getenv(kSetting);
  if (text == nullptr || *text == '\0' || setting() || told.exchange(true)) return {};
  return std::string(kSetting) + " is " + printable(text, 100) + ", which is no number of threads above 0: ignored";
}

RunningCall::RunningCall() {
  if (fork_met_calls)
    throw Error("fork", "a process that was forked while no call of kineograph was running", "one that was",
                "Start processes by spawn or forkserver, or fork before other threads use kineograph.");
  ++running;
}

RunningCall::~RunningCall() { --running; }

void parallel_for(std::int64_t count, int threads, Executor* executor, const std::function<void(std::int64_t)>& work) {
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
  const std::int64_t loops = std::min<std::int64_t>(threads, count);
  if (executor != nullptr && loops > 1)
    executor->parallel_for(static_cast<std::size_t>(loops), [&](std::size_t) { loop(); });
  Threads others;
  try {
    for (std::int64_t i = 1; executor == nullptr && i < loops; ++i) others.start(loop);
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

// How many threads a call gets, and the loop over independent items that needs no scheduler.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/cores.h"
#include "kineograph/executor.h"

namespace kineograph {

/// Threads for a call that asks for `asked`: that many; for 0 KINEOGRAPH_NUM_THREADS, else every available core. Never
/// more than there are cores, as those would only take turns; but up to four on any machine. 1 in a forked child: the
/// threads of oneTBB's pool stayed with its parent.
int thread_count(int asked);

/// What is wrong with KINEOGRAPH_NUM_THREADS, where it is no number above 0 and so has no effect; once in a process,
/// and empty from then on.
std::string take_thread_setting_problem();

/// A call of the library while it lasts. Throws Error in a child that was forked while another thread was in one: that
/// thread's locks stay locked there.
class RunningCall {
 public:
  RunningCall();
  ~RunningCall();
  RunningCall(const RunningCall&) = delete;
  RunningCall& operator=(const RunningCall&) = delete;
};

/// Calls work(i) once for every i in [0, count), on the calling thread and up to `threads` - 1 others, or on threads of
/// the executor. The first exception ends the loop early and is thrown here. A thread that cannot be made is done
/// without.
void parallel_for(std::int64_t count, int threads, Executor* executor, const std::function<void(std::int64_t)>& work);
inline void parallel_for(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work) {
  parallel_for(count, threads, nullptr, work);
}

/// Calls work(i) for every i in [0, count), each on a thread of its own and all at once. Throws IoError where one of
/// the threads cannot be made. `work` must not throw.
void run_at_once(int count, const std::function<void(int)>& work);

}  // namespace kineograph

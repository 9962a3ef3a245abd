// How many threads a call gets, and the loop over independent items that needs no scheduler.
#pragma once

#include <cstdint>
#include <functional>

namespace kineograph {

/// Cores that this process may use.
int available_cores();

/// Threads for a call that asks for `asked`: that many; for 0 KINEOGRAPH_NUM_THREADS, else every core. Never more than
/// there are cores, as those would only take turns; but up to four on any machine.
int thread_count(int asked);

/// Calls work(i) once for every i in [0, count), on the calling thread and up to `threads` - 1 others. The first
/// exception ends the loop early and is thrown here. A thread that cannot be made is done without.
void parallel_for(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work);

/// Calls work(i) for every i in [0, count), each on a thread of its own and all at once. Throws IoError where one of
/// the threads cannot be made. `work` must not throw.
void run_at_once(int count, const std::function<void(int)>& work);

}  // namespace kineograph

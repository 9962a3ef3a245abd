// How many threads a call gets, and the loop over independent items that needs no scheduler.
#pragma once

#include <cstdint>
#include <functional>

namespace kineograph {

/// Cores that this process may use.
int available_cores();

/// Threads for a call that asks for `asked`: that many; for 0 KINEOGRAPH_NUM_THREADS, else every core.
int thread_count(int asked);

/// Calls work(i) once for every i in [0, count), on the calling thread and up to `threads` - 1 others. The first
/// exception ends the loop early and is thrown here.
void parallel_for(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work);

}  // namespace kineograph

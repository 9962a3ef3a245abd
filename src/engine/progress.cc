#include "engine/progress.h"

#include "base/assert.h"
#include "kineograph/error.h"

namespace kineograph::engine {

void Progress::advance(std::size_t steps) {
  done_.fetch_add(steps, std::memory_order_relaxed);
  if (ended_.load(std::memory_order_relaxed)) throw Cancelled();
  if (asking_.exchange(true, std::memory_order_acquire)) return;
  // Read by the one that asks, so that it never falls. 1 is for the end, when all is written.
  const std::size_t done = done_.load(std::memory_order_relaxed);
  KINEOGRAPH_ASSERT(done <= steps_);
  ask(static_cast<double>(done) / static_cast<double>(steps_ + 1));
}

/// With the flag `asking_`, or where no other thread is at work.
void Progress::ask(double done) {
  bool go_on = false;
  try {
    go_on = handler_(done);
  } catch (...) {
    thrown_ = std::current_exception();
  }
  if (!go_on) {
    ended_.store(true, std::memory_order_relaxed);
    throw Cancelled();
  }
  asking_.store(false, std::memory_order_release);
}

}  // namespace kineograph::engine

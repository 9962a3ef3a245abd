#include "engine/cpu/pack/region.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace kineograph::engine::cpu {

void Region::run(const IndexWork& body) {
  const std::function<void(std::size_t)> part = [this, &body](std::size_t) { take_part(body); };
  if (threads_ > 1) executor_.parallel_for(threads_, part);
  // Alone, or where the executor left its bodies out.
  if (!begun_) take_part(body);
  if (failure_) std::rethrow_exception(failure_);
}

void Region::take_part(const IndexWork& body) {
  Lock lock(mutex_);
  if (!std::exchange(begun_, true)) {
    lock.unlock();
    std::exception_ptr failure;
    try {
      body(0);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    failure_ = failure;
    over_ = true;
    changed_.notify_all();
    return;
  }
  while (!over_) {
    if (open_.empty())
      changed_.wait(lock);
    else
      run_some(*open_.back(), lock);
  }
}

void Region::spread(std::size_t count, const IndexWork& piece, bool isolated) {
  if (count == 0) return;
  Loop loop{piece, count};
  Lock lock(mutex_);
  open_.push_back(&loop);
  changed_.notify_all();
  while (loop.next < loop.count) run_some(loop, lock);
  while (loop.running != 0) {
    if (isolated || open_.empty())
      changed_.wait(lock);
    else
      run_some(*open_.back(), lock);
  }
  lock.unlock();
  if (loop.failure) std::rethrow_exception(loop.failure);
}

/// Runs the next pieces of an open loop: one, or of a long loop a part of what is left. Unlocks meanwhile.
void Region::run_some(Loop& loop, Lock& lock) {
  const std::size_t first = loop.next, left = loop.count - first;
  loop.next += std::max<std::size_t>(1, left / (4 * threads_));
  if (loop.next == loop.count) close(loop);
  const std::size_t last = loop.next;
  ++loop.running;
  lock.unlock();
  std::exception_ptr failure;
  try {
    for (std::size_t i = first; i < last; ++i) loop.piece(i);
  } catch (...) {
    failure = std::current_exception();
  }
  lock.lock();
  if (failure && !loop.failure) {
    loop.failure = failure;
    if (loop.next < loop.count) close(loop);
    loop.next = loop.count;
  }
  if (--loop.running == 0) changed_.notify_all();
}

void Region::close(const Loop& loop) { std::erase(open_, &loop); }

}  // namespace kineograph::engine::cpu

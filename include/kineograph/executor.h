// Threads of the program that uses the library, for the library to work on.
#pragma once

#include <cstddef>
#include <functional>

#include "kineograph/export.h"

namespace kineograph {

/// A pool of threads. ModelOptions and ForwardOptions take one; without, the library has threads of its own. The number
/// of threads and their order never change a result. The engine cpu calls parallel_for once a forward, three times a
/// backward, one time more in a call that processes share, and once when it packs weights, the engine reference some
/// times a call: from the thread that called the model, from several at once where calls run at once, and never from
/// inside a body.
///
///     class Pool : public kineograph::Executor {
///       int concurrency() const noexcept override { return pool_.size(); }
///       void parallel_for(std::size_t count, const std::function<void(std::size_t)>& body) override {
///         pool_.run(count, body);  // and wait
///       }
///     };
///
/// kineograph/tbb_executor.h is one over an arena of oneTBB.
class KINEOGRAPH_API Executor {
 public:
  virtual ~Executor() = default;
  /// The most bodies that run at once, 1 or more: the threads of a call that asks for no number.
  virtual int concurrency() const noexcept = 0;
  /// Calls body(i) once for every i in [0, count), count at most concurrency(), and returns when all have returned.
  /// They may run at once or one after the other, on any threads: whoever begins first does what the others would have
  /// done, and bodies wait only for those that have begun. `body` never throws.
  virtual void parallel_for(std::size_t count, const std::function<void(std::size_t)>& body) = 0;
};

}  // namespace kineograph

// How far a call is, and whether it is to go on: shared by the threads at work on it.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>

namespace kineograph::engine {

/// Steps of a call that are done. Handlers are asked by one thread at a time; the others go on meanwhile, so that a
/// handler may wait for any of them, or call a model whose waiting thread takes up work of this call.
class Progress {
 public:
  /// As ProgressHandler. `handler` outlives it.
  explicit Progress(const std::function<bool(double)>& handler) : handler_(handler) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Runs a call, whose steps the engine expects and counts.
  template <class Body>
  void follow(const Body& body) {
    try {
      ask(0.0);
      body();
      ask(1.0);
    } catch (...) {
      // Threads that stop because the handler threw say Cancelled, and may have been faster.
      if (thrown_) std::rethrow_exception(thrown_);
      throw;
    }
  }

  /// How many steps there are, before the first is done.
  void expect(std::size_t steps) noexcept { steps_ = steps; }
  /// Counts steps, and asks whether to go on. Throws Cancelled, in every thread once the handler said no.
  void advance(std::size_t steps);

 private:
  void ask(double done);

  const std::function<bool(double)>& handler_;
  std::size_t steps_ = 0;
  std::atomic<std::size_t> done_{0};
  std::atomic<bool> asking_{false}, ended_{false};
  std::exception_ptr thrown_;  ///< of the handler
};

/// For a call that may have none.
inline void advance(Progress* progress, std::size_t steps = 1) {
  if (progress != nullptr) progress->advance(steps);
}
inline void expect(Progress* progress, std::size_t steps) {
  if (progress != nullptr) progress->expect(steps);
}

}  // namespace kineograph::engine

// What the operating system may refuse: the n-th allocation, write, rename or thread of the process. A program that
// links faults.cc gets them all in its own hands.
#pragma once

#include <functional>
#include <string>

namespace kineograph::testing {

/// Kinds of failure. `allocation` throws std::bad_alloc at operator new. The files' calls set errno; a thread is not
/// made.
enum class Fault { none, allocation, write, sync, link, rename, close, map, thread };

/// The faults of files.
inline constexpr Fault kFileFaults[] = {Fault::write, Fault::sync, Fault::link, Fault::rename, Fault::close};

/// Lets the n-th call of a kind fail, counted from 0, on whatever thread it happens, for as long as this lives.
class Injected {
 public:
  Injected(Fault fault, long n, int error);
  ~Injected();
  Injected(const Injected&) = delete;
  Injected& operator=(const Injected&) = delete;
  /// Whether there were so many.
  bool happened() const;
};

/// How a call ended.
enum class Outcome { success, refused, wrong };

/// Runs `call` with the n-th of its faults for n = first, first + step, ... until there are no more. Each ends in
/// success or in an error of the library's types; then `check` says what holds, told whether it was a success. Returns
/// the number of points. Reports failures to GoogleTest.
long at_every_point(const std::string& what, Fault fault, int error, const std::function<void()>& call,
                    const std::function<void(bool)>& check, long step = 1);

}  // namespace kineograph::testing

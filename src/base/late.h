// A value that is made at its first use.
#pragma once

#include <memory>
#include <mutex>

namespace kineograph {

/// Made by the first thread that asks, while others wait. `make` must not wait for work that may ask for the value.
template <class T>
class Late {
 public:
  /// `make` returns a std::unique_ptr<T>.
  template <class Make>
  T& get(Make&& make) {
    const std::lock_guard lock(mutex_);
    if (!value_) value_ = make();
    return *value_;
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<T> value_;
};

}  // namespace kineograph

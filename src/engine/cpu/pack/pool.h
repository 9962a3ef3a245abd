// Memory that is kept from call to call.
#pragma once

#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace kineograph::engine::cpu {

/// Values of T that come back after use, so that a steady stream of calls allocates nothing. They come back as they
/// are, also from a call that failed: the borrower describes it anew.
template <class T>
class Pool {
 public:
  /// One value for as long as this lives.
  class Borrowed {
   public:
    explicit Borrowed(Pool& pool) : pool_(pool), value_(pool.take()) {}
    ~Borrowed() { pool_.give_back(std::move(value_)); }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    T& operator*() const { return *value_; }
    T* operator->() const { return value_.get(); }

   private:
    Pool& pool_;
    std::unique_ptr<T> value_;
  };

 private:
  std::unique_ptr<T> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<T> value = std::move(free_.back());
        free_.pop_back();
        return value;
      }
    }
    return std::make_unique<T>();
  }
  /// Runs in destructors, so it must not throw: without memory for the list the value is given up.
  void give_back(std::unique_ptr<T> value) noexcept {
    const std::lock_guard lock(mutex_);
    try {
      free_.push_back(std::move(value));
    } catch (const std::bad_alloc&) {
    }
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace kineograph::engine::cpu

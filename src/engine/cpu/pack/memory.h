// Memory of packed weights and of working values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

#include "base/assert.h"
#include "base/memory.h"
#include "engine/cpu/pack/host.h"

namespace kineograph::engine::cpu {

/// `bytes` on `alignment` from this thread's host, or of the library's own, with large pages where they fit.
inline std::shared_ptr<std::byte> take_memory(std::size_t bytes, std::size_t alignment) {
  if (std::pmr::memory_resource* const memory = host().memory)
    return {static_cast<std::byte*>(memory->allocate(bytes, alignment)),
            [=](std::byte* p) { memory->deallocate(p, bytes, alignment); }};
  std::shared_ptr<std::byte> taken(new (std::align_val_t{alignment}) std::byte[bytes],
                                   [=](std::byte* p) { ::operator delete[](p, std::align_val_t{alignment}); });
  prefer_large_pages(taken.get(), bytes);
  return taken;
}

/// One piece of memory that many buffers share: together they fill large pages, each by itself it would not.
class Slab {
 public:
  Slab() = default;
  /// With room for `bytes`, and nothing where that is less than a large page.
  explicit Slab(std::size_t bytes) {
    if (bytes < kLargePage) return;
    bytes = (bytes + kLargePage - 1) / kLargePage * kLargePage;
    memory_ = take_memory(bytes, kLargePage);
    next_ = memory_.get();
    left_ = bytes;
  }

  /// `bytes` on a cache line that live as long as anything from this slab does, or null where too little is left.
  std::shared_ptr<std::byte> take(std::size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes > left_) return nullptr;
    std::byte* const taken = next_;
    next_ += bytes;
    left_ -= bytes;
    return {memory_, taken};
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  std::shared_ptr<std::byte> memory_;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
};

/// Memory on a cache line, of T that need no constructor; zeros unless asked otherwise.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size, Slab* slab = nullptr) : Buffer(unwritten(size, slab)) {
    std::fill_n(data(), size, T{});
  }
  /// For a caller that writes every element, from several threads at best: pages are given out at the first write.
  static Buffer unwritten(std::size_t size, Slab* slab = nullptr) {
    Buffer buffer;
    if (size == 0) return buffer;
    buffer.size_ = size;
    if (slab != nullptr) buffer.data_ = slab->take(buffer.bytes());
    if (buffer.data_ == nullptr) buffer.data_ = take_memory(buffer.bytes(), 64);
    return buffer;
  }
  Buffer(Buffer&& other) noexcept = default;
  Buffer& operator=(Buffer&& other) noexcept = default;

  T* data() noexcept { return reinterpret_cast<T*>(data_.get()); }
  const T* data() const noexcept { return reinterpret_cast<const T*>(data_.get()); }
  std::size_t size() const noexcept { return size_; }
  std::size_t bytes() const noexcept { return size_ * sizeof(T); }
  T& operator[](std::size_t i) noexcept {
    KINEOGRAPH_ASSERT(i < size_);
    return data()[i];
  }
  const T& operator[](std::size_t i) const noexcept {
    KINEOGRAPH_ASSERT(i < size_);
    return data()[i];
  }

 private:
  std::shared_ptr<std::byte> data_;
  std::size_t size_ = 0;
};

/// Makes room; earlier contents are lost.
template <class T>
void grow(Buffer<T>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer = Buffer<T>(size);
}

}  // namespace kineograph::engine::cpu

// Threads and memory that the program which uses the library lends to it.
#pragma once

#include <memory_resource>

#include "kineograph/executor.h"

namespace kineograph::engine::cpu {

class Region;

/// Of a call, or of the packing of weights; null: the library's own.
struct Lent {
  Executor* executor = nullptr;
  std::pmr::memory_resource* memory = nullptr;
};

/// The same, as a thread at work on it has it. Loops (parallel.h) hand it on to the threads of their pieces.
struct Host {
  Region* region = nullptr;                     ///< of an executor's threads; null: oneTBB's
  std::pmr::memory_resource* memory = nullptr;  ///< of buffers; null: operator new
};
const Host& host() noexcept;

/// This thread's host while it lives.
class HostScope {
 public:
  explicit HostScope(const Host& host) noexcept;
  ~HostScope();
  HostScope(const HostScope&) = delete;
  HostScope& operator=(const HostScope&) = delete;

 private:
  Host before_;
};

}  // namespace kineograph::engine::cpu

#include "faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kineograph/error.h"

namespace kineograph::testing {
namespace {

std::atomic<Fault> armed{Fault::none};
std::atomic<long> left{-1};
std::atomic<int> with_error{0};

/// Whether this call is the one that fails.
bool fails(Fault fault) {
  if (armed.load(std::memory_order_relaxed) != fault || left.fetch_sub(1) != 0) return false;
  errno = with_error;
  return true;
}

bool is_file(int descriptor) {
  struct stat status {};
  const int kept = errno;
  const bool file = descriptor > 2 && ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  errno = kept;
  return file;
}

void* allocate(std::size_t size, std::size_t alignment) {
  if (fails(Fault::allocation)) throw std::bad_alloc();
  void* const memory = alignment <= alignof(std::max_align_t)
                           ? std::malloc(size == 0 ? 1 : size)
                           : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

Injected::Injected(Fault fault, long n, int error) {
  with_error = error;
  left = n;
  armed = fault;
}
Injected::~Injected() { armed = Fault::none; }
bool Injected::happened() const { return left < 0; }

long at_every_point(const std::string& what, Fault fault, int error, const std::function<void()>& call,
                    const std::function<void(bool)>& check, long step) {
  constexpr long kMost = 200'000;
  for (long n = 0; n < kMost; n += step) {
    bool success = false, happened = false;
    std::string other;
    {
      const Injected injected(fault, n, error);
      try {
        call();
        success = true;
      } catch (const Error&) {
      } catch (const std::bad_alloc&) {
      } catch (const std::exception& unknown) {
        other = std::strlen(unknown.what()) != 0 ? unknown.what() : "an exception without a word";
      }
      happened = injected.happened();
    }
    EXPECT_EQ(other, "") << what << ", point " << n << ": an exception of no type of the library's";
    check(success);
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << what << ", point " << n << ", error " << std::strerror(error);
      return n;
    }
    if (!happened) {
      EXPECT_TRUE(success) << what << ": failed by itself";
      return n;
    }
  }
  ADD_FAILURE() << what << ": no end of points";
  return kMost;
}

}  // namespace kineograph::testing

using kineograph::testing::Fault;

void* operator new(std::size_t size) { return kineograph::testing::allocate(size, 0); }
void* operator new[](std::size_t size) { return kineograph::testing::allocate(size, 0); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return kineograph::testing::allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return kineograph::testing::allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

extern "C" {

ssize_t write(int descriptor, const void* data, size_t size) {
  static auto* const next = kineograph::testing::real<ssize_t(int, const void*, size_t)>("write");
  if (kineograph::testing::is_file(descriptor) && kineograph::testing::fails(Fault::write)) return -1;
  return next(descriptor, data, size);
}

int fsync(int descriptor) {
  static auto* const next = kineograph::testing::real<int(int)>("fsync");
  return kineograph::testing::fails(Fault::sync) ? -1 : next(descriptor);
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
  static auto* const next = kineograph::testing::real<int(int, const char*, int, const char*, int)>("linkat");
  return kineograph::testing::fails(Fault::link) ? -1 : next(from_folder, from, to_folder, to, flags);
}

int rename(const char* from, const char* to) noexcept {
  static auto* const next = kineograph::testing::real<int(const char*, const char*)>("rename");
  return kineograph::testing::fails(Fault::rename) ? -1 : next(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  static auto* const next = kineograph::testing::real<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return kineograph::testing::fails(Fault::rename) ? -1 : next(from_folder, from, to_folder, to, flags);
}

int close(int descriptor) {
  static auto* const next = kineograph::testing::real<int(int)>("close");
  const bool written = kineograph::testing::is_file(descriptor) && (::fcntl(descriptor, F_GETFL) & O_ACCMODE) != 0;
  const bool failing = written && kineograph::testing::fails(Fault::close);
  const int kept = errno, closed = next(descriptor);
  if (!failing) return closed;
  errno = kept;
  return -1;
}

void* mmap(void* address, size_t size, int protection, int flags, int descriptor, off_t offset) noexcept {
  static auto* const next = kineograph::testing::real<void*(void*, size_t, int, int, int, off_t)>("mmap");
  if (descriptor >= 0 && kineograph::testing::fails(Fault::map)) return MAP_FAILED;
  return next(address, size, protection, flags, descriptor, offset);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  static auto* const next =
      kineograph::testing::real<int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*)>("pthread_create");
  return kineograph::testing::fails(Fault::thread) ? EAGAIN : next(thread, attributes, body, argument);
}

}  // extern "C"

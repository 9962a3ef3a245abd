#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>

#include "base/system.h"
#include "kineograph/error.h"
#if KINEOGRAPH_MAPS_FILES
#include <sys/mman.h>
#endif

namespace kineograph::checkpoint {
namespace {

constexpr std::size_t kMostText = std::size_t{64} << 20;

[[noreturn]] void fail(const std::filesystem::path& path, const char* expected) {
  throw IoError(path.string(), expected, std::error_code(errno, std::generic_category()));
}

/// When the contents were changed last, and the inode: names, owners and rights too.
struct Changes {
  timespec contents, inode;
};
Changes changes_of(const struct stat& status) {
#ifdef __APPLE__
  return {status.st_mtimespec, status.st_ctimespec};
#else
  return {status.st_mtim, status.st_ctim};
#endif
}

/// Of a file that has been at rest for two seconds, the coarsest step of a file system's clock.
std::string identity_of(const struct stat& status) {
  const auto number = [](const timespec& time) {
    return std::to_string(time.tv_sec) + "." + std::to_string(time.tv_nsec);
  };
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const auto [contents, inode] = changes_of(status);
  if (std::max(contents.tv_sec, inode.tv_sec) > now.tv_sec - 2) return {};
  return std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino) + ":" + std::to_string(status.st_size) +
         ":" + number(contents) + ":" + number(inode);
}

/// Every map there is, by its first address. Never destroyed: maps may outlive static destructors. A handler of SIGBUS
/// may wait for the mutex, as nobody reads a map who holds it.
struct Registry {
  std::mutex mutex;
  std::map<std::uintptr_t, const MappedFile*> files;

  const MappedFile* at(const void* address) const {
    const auto place = reinterpret_cast<std::uintptr_t>(address);
    auto found = files.upper_bound(place);
    if (found == files.begin()) return nullptr;
    const MappedFile* const file = (--found)->second;
    return place - found->first < file->bytes().size() ? file : nullptr;
  }
};
Registry& registry() {
  static auto& all = *new Registry;
  return all;
}

/// The mapped file that `address` lies in, or null. It is not looked at under the lock: whoever reads the map keeps it
/// alive.
const MappedFile* file_at(const void* address) {
  const std::lock_guard lock(registry().mutex);
  return registry().at(address);
}

/// The first `size` bytes of a file, in memory.
const std::byte* hold(const std::filesystem::path& path, int descriptor, std::size_t size) {
#if KINEOGRAPH_MAPS_FILES
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (mapped == MAP_FAILED) fail(path, "a file that can be mapped");
  return static_cast<const std::byte*>(mapped);
#else
  auto bytes = std::make_unique<std::byte[]>(size);
  for (std::size_t done = 0; done < size;) {
    const ssize_t read = ::read(descriptor, bytes.get() + done, size - done);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) fail(path, "a file that can be read");
    if (read == 0)
      throw IoError(path.string(), "a file of " + std::to_string(size) + " bytes", "one cut off meanwhile");
    done += static_cast<std::size_t>(read);
  }
  return bytes.release();
#endif
}

void let_go(const std::byte* data, [[maybe_unused]] std::size_t size) noexcept {
#if KINEOGRAPH_MAPS_FILES
  ::munmap(const_cast<std::byte*>(data), size);
#else
  delete[] data;
#endif
}

std::uintptr_t key_of(const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data); }

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  struct stat status {};
  // A pipe would be waited for, and a device may do something, when it is opened: looked at first.
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    throw IoError(path.string(), "a regular file", S_ISDIR(status.st_mode) ? "a folder" : "a device or a pipe");
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail(path, "a readable file");
  try {
    if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
      throw IoError(path.string(), "a regular file", "something else");
    size_ = static_cast<std::size_t>(status.st_size);
    changed_ = changes_of(status).contents;
    identity_ = identity_of(status);
    if (size_ != 0) {
      data_ = hold(path, descriptor, size_);
      const std::lock_guard lock(registry().mutex);
      registry().files.emplace(key_of(data_), this);
    }
  } catch (...) {
    if (data_ != nullptr) let_go(data_, size_);
    ::close(descriptor);
    throw;
  }
  descriptor_ = descriptor;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    {
      const std::lock_guard lock(registry().mutex);
      registry().files.erase(key_of(data_));
    }
    let_go(data_, size_);
  }
  ::close(descriptor_);
}

void MappedFile::check_unchanged() const {
  struct stat now {};
  if (::fstat(descriptor_, &now) != 0) fail(path_, "a file that can be looked at");
  const timespec changed = changes_of(now).contents;
  const bool same = static_cast<std::size_t>(now.st_size) == size_ && changed.tv_sec == changed_.tv_sec &&
                    changed.tv_nsec == changed_.tv_nsec;
  if (!same)
    throw IoError(path_.string(), "the file as it was when it was opened",
                  now.st_size == static_cast<off_t>(size_) ? "one that was written to since" : "one of another size",
                  "Replace model files by a rename, not in place; or load with copy_weights.");
}

std::string MappedFile::identity(const std::byte* at) const {
  struct stat now {};
  if (identity_.empty() || ::fstat(descriptor_, &now) != 0 || identity_of(now) != identity_) return {};
  return identity_ + "+" + std::to_string(at - data_);
}

void check_unchanged(const void* address) {
  if (const MappedFile* const file = file_at(address)) file->check_unchanged();
}

std::string identity_at(const void* address) {
  const MappedFile* const file = file_at(address);
  return file == nullptr ? std::string() : file->identity(static_cast<const std::byte*>(address));
}

const char* mapped_file_at(const void* address) noexcept {
  const std::lock_guard lock(registry().mutex);
  const MappedFile* const file = registry().at(address);
  return file == nullptr ? nullptr : file->path().c_str();
}

void MappedFile::release([[maybe_unused]] std::span<const std::byte> part) const noexcept {
#if KINEOGRAPH_MAPS_FILES
  if (part.empty() || part.data() < data_ || part.data() + part.size() > data_ + size_) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t first = static_cast<std::size_t>(part.data() - data_) / page * page;
  const std::size_t last = static_cast<std::size_t>(part.data() - data_) + part.size();
  ::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
#endif
}

std::string read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  if (file.bytes().size() > kMostText)
    throw FormatError(path.string(), "a text of at most " + std::to_string(kMostText >> 20) + " MiB",
                      std::to_string(file.bytes().size() >> 20) + " MiB");
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

}  // namespace kineograph::checkpoint

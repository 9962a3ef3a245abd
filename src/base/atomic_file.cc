#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>

#include "kineograph/error.h"

namespace kineograph {

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  // A device or a pipe cannot be replaced by a rename; it is written to directly.
  std::error_code ignored;
  const auto status = std::filesystem::status(path_, ignored);
  special_ = std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
  if (special_) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    // A file without a name vanishes with the process, however that ends; not every file system has such.
    const std::filesystem::path folder = path_.parent_path().empty() ? "." : path_.parent_path();
    descriptor_ = ::open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
    if (descriptor_ >= 0 && ::access(descriptor_path().c_str(), F_OK) != 0) {  // without /proc it gets no name
      ::close(descriptor_);
      descriptor_ = -1;
    }
    if (descriptor_ < 0) {
      do {
        temporary_ = next_name();
        descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      } while (descriptor_ < 0 && errno == EEXIST);
      if (descriptor_ < 0) temporary_.clear();
    }
  }
  if (descriptor_ < 0) fail("opened");
}

std::string AtomicFile::next_name() const {
  // Of this process's own, and a new one for every file it writes.
  static std::atomic<unsigned> counter{0};
  return path_.string() + "." + std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".tmp";
}

std::string AtomicFile::descriptor_path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, from, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("written");
    from += written;
    size -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::flush() {
  if (!special_ && ::fsync(descriptor_) != 0) fail("flushed");
}

void AtomicFile::commit() {
  flush();
  if (!special_ && temporary_.empty()) {
    // A name beside the one it will take: no link replaces what is there, and only a rename does so at once.
    const std::string self = descriptor_path();
    int linked = -1;
    do {
      temporary_ = next_name();
      linked = ::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW);
    } while (linked != 0 && errno == EEXIST);
    if (linked != 0) {
      temporary_.clear();
      fail("named");
    }
  }
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) fail("closed");
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("renamed into place");
  temporary_.clear();
}

void AtomicFile::fail(const char* action) const {
  throw IoError(path_.string(), std::string("a file that can be ") + action,
                std::error_code(errno, std::generic_category()), "Nothing was changed.");
}

}  // namespace kineograph

#include "base/atomic_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/system.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnding = ".tmp";

// Names of unfinished files, in memory that a signal handler may read whatever the threads are doing.
struct Unfinished {
  enum State : int { free, changing, named };
  std::atomic<int> state{free};
  std::array<char, 4096> name{};
};
std::array<Unfinished, 16> unfinished;

void remember(const std::string& name) noexcept {
  for (Unfinished& slot : unfinished) {
    int expected = Unfinished::free;
    if (name.size() >= slot.name.size() || !slot.state.compare_exchange_strong(expected, Unfinished::changing))
      continue;
    std::memcpy(slot.name.data(), name.c_str(), name.size() + 1);
    slot.state = Unfinished::named;
    return;
  }
}

void forget(const std::string& name) noexcept {
  for (Unfinished& slot : unfinished)
    if (slot.state == Unfinished::named && name == slot.name.data()) {
      slot.state = Unfinished::free;
      return;
    }
}

/// The file that a chain of links leads to, whether it is there or not.
fs::path follow_links(fs::path path) {
  std::error_code ignored;
  // A pipe or a device behind a descriptor has no other name than /dev/fd/N: what that link says leads to nothing.
  if (fs::is_other(fs::status(path, ignored))) return path;
  for (int links = 0; links < 40 && fs::is_symlink(path, ignored); ++links) {
    const fs::path target = fs::read_symlink(path, ignored);
    if (ignored) break;
    path = target.is_absolute() ? target : path.parent_path() / target;
  }
  return path;
}

fs::path folder_of(const fs::path& path) { return path.parent_path().empty() ? "." : path.parent_path(); }

/// A name of this process's own beside `path`, and a new one for every file it writes.
std::string temporary_name(const fs::path& path) {
  static std::atomic<unsigned> counter{0};
  return (folder_of(path) / ("." + path.filename().string() + "." + std::to_string(::getpid()) + "-" +
                             std::to_string(counter++) + std::string(kEnding)))
      .string();
}

/// Removes temporary files for `path` of processes that are gone: whoever still writes one holds its lock.
void remove_strays(const fs::path& path) noexcept {
  try {
    const std::string start = "." + path.filename().string() + ".";
    // Not std::filesystem's iterator, whose constructor ends the process where memory runs out.
    const std::string folder = folder_of(path).string();
    const std::unique_ptr<DIR, int (*)(DIR*)> names(::opendir(folder.c_str()), ::closedir);
    if (!names) return;
    while (const dirent* entry = ::readdir(names.get())) {
      const std::string_view name = entry->d_name;
      if (!name.starts_with(start) || !name.ends_with(kEnding) || name.size() <= start.size() + kEnding.size())
        continue;
      const std::string_view middle = name.substr(start.size(), name.size() - start.size() - kEnding.size());
      if (middle.find_first_not_of("0123456789-") != std::string_view::npos) continue;
      const std::string stray = folder + "/" + entry->d_name;
      const int descriptor = ::open(stray.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
      if (descriptor < 0) continue;
      if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) ::unlink(stray.c_str());
      ::close(descriptor);
    }
  } catch (const std::exception&) {
    // Strays cost space only.
  }
}

/// Exchanges two names at once; false where the system cannot, or one of them leads to nothing.
bool exchange(const char* a, const char* b) noexcept {
#if KINEOGRAPH_LINUX && defined(RENAME_EXCHANGE)
  return ::renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
#else
  (void)a, (void)b;
  return false;
#endif
}

extern "C" void remove_and_end(int signal) {
  remove_unfinished_files();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

void remove_unfinished_files() noexcept {
  for (const Unfinished& slot : unfinished)
    if (slot.state == Unfinished::named) ::unlink(slot.name.data());
}

void remove_unfinished_files_on_signals() noexcept {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    struct sigaction now {};
    if (sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) std::signal(signal, remove_and_end);
  }
}

AtomicFile::AtomicFile(fs::path path) : path_(follow_links(std::move(path))) {
  std::error_code ignored;
  if (fs::is_directory(path_, ignored)) throw IoError(path_.string(), "a file to write", "a folder");
  struct stat before {};
  existed_ = ::stat(path_.c_str(), &before) == 0;
  special_ = existed_ && !S_ISREG(before.st_mode);
  if (special_) {
    descriptor_.value = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_.value < 0) fail("opened");
    return;
  }
  remove_strays(path_);
  if (!open_nameless(folder_of(path_))) open_temporary();
  // Before the first byte is there to be read by others.
  if (existed_) (void)::fchmod(descriptor_.value, before.st_mode & 07777);
  (void)::flock(descriptor_.value, LOCK_EX | LOCK_NB);
}

std::string AtomicFile::name_for_others() const {
  if (special_) return path_.string();
  if (is_named()) return temporary_;
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(descriptor_.value);
}

/// A file that vanishes with the process, however that ends; not every file system has such.
bool AtomicFile::open_nameless(const fs::path& folder) {
#if KINEOGRAPH_LINUX && defined(O_TMPFILE)
  descriptor_.value = ::open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
  if (descriptor_.value < 0) return false;
  if (::access(descriptor_path().c_str(), F_OK) == 0) return true;
  descriptor_.close();  // without /proc it gets no name
#else
  (void)folder;
#endif
  return false;
}

void AtomicFile::open_temporary() {
  do {
    set_temporary(temporary_name(path_));
    descriptor_.value = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_.value < 0) set_temporary({});
  } while (descriptor_.value < 0 && errno == EEXIST);
  if (descriptor_.value < 0) fail("opened");
}

void AtomicFile::set_temporary(std::string name) {
  const int kept = errno;
  if (!temporary_.empty()) forget(temporary_);
  temporary_ = std::move(name);
  if (!temporary_.empty()) remember(temporary_);
  errno = kept;
}

std::string AtomicFile::descriptor_path() const { return "/proc/self/fd/" + std::to_string(descriptor_.value); }

int AtomicFile::Descriptor::close() noexcept {
  const int descriptor = std::exchange(value, -1);
  return descriptor < 0 ? 0 : ::close(descriptor);
}

AtomicFile::~AtomicFile() {
  if (temporary_.empty()) return;
  ::unlink(temporary_.c_str());
  forget(temporary_);
}

void AtomicFile::write(const void* data, std::size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_.value, from, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("written");
    from += written;
    size -= static_cast<std::size_t>(written);
  }
}

/// On the disk as a whole, under its temporary name.
void AtomicFile::complete() {
  if (!special_) {
    if (::fsync(descriptor_.value) != 0) fail("flushed");
    // A name beside the one it will take: no link replaces what is there, and only a rename does so at once.
    const std::string nameless = descriptor_path();
    while (!is_named()) {
      set_temporary(temporary_name(path_));
      if (::linkat(AT_FDCWD, nameless.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) == 0) break;
      set_temporary({});
      if (errno != EEXIST) fail("named");
    }
  }
  // Some file systems tell what went wrong only now. The lock stays with the copy.
  const int copy = special_ ? -1 : ::fcntl(descriptor_.value, F_DUPFD_CLOEXEC, 0);
  const int closed = descriptor_.close();
  descriptor_.value = copy;
  if (closed != 0) fail("closed");
}

/// `may_give_back`: what had the name is kept until the other files have theirs.
void AtomicFile::take_name(bool may_give_back) {
  if (special_) return;
  if (may_give_back && existed_ && exchange(temporary_.c_str(), path_.c_str())) {
    swapped_ = true;
    return;
  }
  // Elsewhere a second name keeps what had this one; freeing a large file inside rename would also take its time, in
  // which files that belong together are old and new.
  std::string kept = temporary_name(path_);
  swapped_ = may_give_back && existed_ && ::link(path_.c_str(), kept.c_str()) == 0;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int why = errno;
    if (std::exchange(swapped_, false)) ::unlink(kept.c_str());
    errno = why;
    fail("renamed into place");
  }
  set_temporary(swapped_ ? std::move(kept) : std::string());
}

bool AtomicFile::give_name_back() noexcept {
  if (special_) return false;
  if (swapped_) return exchange(temporary_.c_str(), path_.c_str()) || ::rename(temporary_.c_str(), path_.c_str()) == 0;
  return !existed_ && ::unlink(path_.c_str()) == 0;
}

void AtomicFile::sync_folder() const {
  if (special_) return;
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = folder >= 0 && (::fsync(folder) == 0 || errno == EINVAL);  // EINVAL: it has no such thing
  const int why = errno;
  if (folder >= 0) ::close(folder);
  errno = why;
  if (!synced && folder >= 0) fail("found by its name after a power cut", "The file is in its place.");
}

/// Rethrows the error that is being handled, and says that this file is there all the same.
void AtomicFile::tell_new() const {
  try {
    throw;
  } catch (const IoError& error) {
    throw IoError(error.where(), error.expected(), error.found(),
                  path_.string() + " is the new one already: write both again.");
  }
}

void AtomicFile::commit_together(std::initializer_list<AtomicFile*> files) {
  for (AtomicFile* file : files) file->complete();
  std::size_t named = 0;
  try {
    for (AtomicFile* file : files) {
      file->take_name(files.size() > 1);
      ++named;
    }
  } catch (...) {  // a refusal of the system's, or no memory for a name
    const AtomicFile* stays = nullptr;
    while (named-- > 0)
      if (!files.begin()[named]->give_name_back()) stays = files.begin()[named];
    if (stays != nullptr) stays->tell_new();
    throw;
  }
  for (AtomicFile* file : files) {
    if (file->is_named() && ::unlink(file->temporary_.c_str()) == 0) file->set_temporary({});
    file->descriptor_.close();
  }
  for (const AtomicFile* file : files) file->sync_folder();
}

void AtomicFile::fail(const char* action, const char* hint) const {
  throw IoError(path_.string(), std::string("a file that can be ") + action,
                std::error_code(errno, std::generic_category()), special_ ? "" : hint);
}

}  // namespace kineograph

#include "video/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <system_error>
#include <vector>

#include "kineograph/error.h"

namespace kineograph::video {
namespace {

// The path that the signal handler removes. A plain pointer: a handler may not touch anything that allocates.
char* volatile unfinished_path = nullptr;

extern "C" void remove_unfinished(int signal) {
  if (unfinished_path != nullptr) unlink(unfinished_path);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void handle_signals() {
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    const auto before = std::signal(signal, remove_unfinished);
    // Ignored signals stay ignored, and a command that handles signals itself goes on to do so.
    if (before != SIG_DFL && before != remove_unfinished) std::signal(signal, before);
  }
}

void watch(const std::filesystem::path& path) {
  char* const copy = path.empty() ? nullptr : strdup(path.c_str());
  char* const before = unfinished_path;
  unfinished_path = copy;
  std::free(before);
}

std::error_code last_error() { return {errno, std::generic_category()}; }

// A new file's permissions as any program would make it, or those of the file it will replace.
mode_t permissions_for(const std::filesystem::path& path) {
  struct stat existing {};
  if (stat(path.c_str(), &existing) == 0) return existing.st_mode & 07777;
  const mode_t mask = umask(0);
  umask(mask);
  return 0666 & ~mask;
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path) : path_(std::move(path)) {
  if (path_ == "-") {
    stream_ = &std::cout;
    return;
  }
  std::error_code ignored;
  if (std::filesystem::is_symlink(path_, ignored)) {
    // The name stays a link; the file it leads to is replaced.
    const std::filesystem::path target = std::filesystem::weakly_canonical(path_, ignored);
    if (!ignored) path_ = target;
  }
  const auto status = std::filesystem::status(path_, ignored);
  errno = 0;
  if (std::filesystem::is_directory(status)) throw IoError(path_.string(), "a file to write", "a directory");
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    file_.open(path_, std::ios::binary);
  } else {
    std::string name = (path_.parent_path() / ("." + path_.filename().string() + ".XXXXXX")).string();
    std::vector<char> pattern(name.c_str(), name.c_str() + name.size() + 1);
    const int descriptor = mkstemp(pattern.data());
    if (descriptor < 0) throw IoError(path_.string(), "a file that can be written", last_error());
    unfinished_ = pattern.data();
    handle_signals();
    watch(unfinished_);
    fchmod(descriptor, permissions_for(path_));
    close(descriptor);
    file_.open(unfinished_, std::ios::binary);
  }
  if (!file_) throw IoError(path_.string(), "a file that can be written", last_error());
  stream_ = &file_;
}

OutputFile::~OutputFile() {
  if (unfinished_.empty()) return;
  file_.close();
  unlink(unfinished_.c_str());
  watch({});
}

void OutputFile::check() {
  if (!*stream_) throw IoError(path_ == "-" ? "stdout" : path_.string(), "to write on", last_error());
}

void OutputFile::commit() {
  errno = 0;
  stream_->flush();
  check();
  if (unfinished_.empty()) return;
  // On disk before it takes the name: after a power cut the name must not lead to an empty file.
  const int descriptor = open(unfinished_.c_str(), O_WRONLY | O_CLOEXEC);
  const bool synced = descriptor >= 0 && fsync(descriptor) == 0;
  if (descriptor >= 0) close(descriptor);
  if (!synced || rename(unfinished_.c_str(), path_.c_str()) != 0)
    throw IoError(path_.string(), "to put the finished file in place", last_error());
  unfinished_.clear();
  watch({});
}

}  // namespace kineograph::video

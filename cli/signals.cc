#include "signals.h"

#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstring>
#include <initializer_list>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace kineograph::cli {
namespace {

/// Says a text without allocating; control characters of a file's name become '?'.
void write_plain(const char* text) {
  char line[4096];
  std::size_t length = 0;
  for (; text[length] != '\0' && length < sizeof line; ++length) {
    const auto byte = static_cast<unsigned char>(text[length]);
    line[length] = byte < 0x20 || (byte >= 0x7f && byte < 0xa0) ? '?' : text[length];
  }
  (void)!::write(STDERR_FILENO, line, length);
}

extern "C" void end_on_changed_file(int signal, siginfo_t* info, void*) {
  const char* const path = checkpoint::mapped_file_at(info->si_addr);
  if (path == nullptr) {  // a fault of our own
    std::signal(signal, SIG_DFL);
    std::raise(signal);
    return;
  }
  write_plain("kineograph: error: ");
  write_plain(path);
  write_plain(
      ": the file was cut off, or could not be read any more, while it was in use. Replace files by a rename, "
      "not in place.");
  (void)!::write(STDERR_FILENO, "\n", 1);
  remove_unfinished_files();
  ::_exit(1);
}

}  // namespace

void explain_changed_files() {
  struct sigaction action {};
  action.sa_sigaction = end_on_changed_file;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace kineograph::cli

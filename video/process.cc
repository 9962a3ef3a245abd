#include "video/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <iterator>
#include <system_error>
#include <utility>

#include "kineograph/error.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): by POSIX no header has it

namespace kineograph::video {

class Process::Buffer : public std::streambuf {
 public:
  explicit Buffer(int descriptor) : descriptor_(descriptor) { setp(buffer_.data(), buffer_.data() + buffer_.size()); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() override {
    sync();
    close(descriptor_);
  }

 protected:
  int_type underflow() override {
    ssize_t count;
    do count = read(descriptor_, buffer_.data(), buffer_.size());
    while (count < 0 && errno == EINTR);
    if (count <= 0) return traits_type::eof();
    setg(buffer_.data(), buffer_.data(), buffer_.data() + count);
    return traits_type::to_int_type(buffer_.front());
  }

  int sync() override {
    for (const char* at = pbase(); at < pptr();) {
      const ssize_t count = write(descriptor_, at, static_cast<std::size_t>(pptr() - at));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return -1;
      at += count;
    }
    setp(buffer_.data(), buffer_.data() + buffer_.size());
    return 0;
  }

  int_type overflow(int_type value) override {
    if (sync() != 0) return traits_type::eof();
    if (!traits_type::eq_int_type(value, traits_type::eof())) sputc(traits_type::to_char_type(value));
    return traits_type::not_eof(value);
  }

 private:
  int descriptor_;
  std::array<char, 1 << 16> buffer_;
};

namespace {

// A pipe's ends; neither is the program's to inherit but by name.
struct Ends {
  int read = -1, write = -1;
};

Ends make_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    throw IoError("a pipe to another program", "to be made", std::error_code(errno, std::generic_category()));
  return {ends[0], ends[1]};
}

}  // namespace

Process::Process(const std::vector<std::string>& arguments, Pipe pipe, const std::string& what_for,
                 const std::string& hint)
    : messages_(std::tmpfile()) {
  if (messages_ == nullptr)
    throw IoError("a temporary file", "to be made", std::error_code(errno, std::generic_category()));
  const Ends ends = make_pipe();
  const bool from = pipe == Pipe::from;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (from)
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  else
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, from ? ends.write : ends.read, from ? STDOUT_FILENO : STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(messages_), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  std::vector<char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  const int failure = posix_spawnp(&process_, pointers[0], &actions, &attributes, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(from ? ends.write : ends.read);
  buffer_ = std::make_unique<Buffer>(from ? ends.read : ends.write);
  // A program that ends early is a write that fails, not a signal.
  if (!from) std::signal(SIGPIPE, SIG_IGN);
  if (failure == 0) return;
  process_ = -1;
  std::fclose(std::exchange(messages_, nullptr));
  throw IoError(arguments[0], what_for, std::error_code(failure, std::generic_category()), hint);
}

Process::~Process() {
  end();
  if (messages_ != nullptr) std::fclose(messages_);
}

std::streambuf* Process::buffer() noexcept { return buffer_.get(); }

bool Process::end() {
  buffer_.reset();
  if (process_ < 0) return well_;
  int status = 0;
  while (waitpid(process_, &status, 0) < 0 && errno == EINTR) continue;
  process_ = -1;
  return well_ = WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string Process::said() const {
  char text[4096];
  const ssize_t length = pread(fileno(messages_), text, sizeof text, 0);
  std::string words(text, length > 0 ? static_cast<std::size_t>(length) : 0);
  while (!words.empty() && words.back() == '\n') words.pop_back();
  return words;
}

std::string output_of(const std::vector<std::string>& arguments, const std::string& where, const std::string& what_for,
                      const std::string& hint) {
  Process process(arguments, Process::Pipe::from, what_for, hint);
  const std::string output{std::istreambuf_iterator<char>(process.buffer()), {}};
  if (!process.end()) throw FormatError(where, "a video that ffmpeg decodes", process.said());
  return output;
}

}  // namespace kineograph::video

#include "video/output_file.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <iostream>
#include <streambuf>
#include <system_error>
#include <utility>

#include "base/atomic_file.h"
#include "kineograph/error.h"

namespace kineograph::video {
namespace {

std::error_code last_error() { return {errno, std::generic_category()}; }

}  // namespace

/// Hands blocks to the file. A stream swallows exceptions; the first one is kept for whoever asks.
class OutputFile::Buffer : public std::streambuf {
 public:
  explicit Buffer(AtomicFile& file) : file_(file) { setp(block_.data(), block_.data() + block_.size()); }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 protected:
  int_type overflow(int_type c) override {
    if (sync() != 0) return traits_type::eof();
    if (!traits_type::eq_int_type(c, traits_type::eof())) sputc(traits_type::to_char_type(c));
    return traits_type::not_eof(c);
  }
  std::streamsize xsputn(const char* data, std::streamsize size) override {
    if (size <= epptr() - pptr()) {
      std::memcpy(pptr(), data, static_cast<std::size_t>(size));
      pbump(static_cast<int>(size));
      return size;
    }
    return sync() == 0 && put(data, static_cast<std::size_t>(size)) ? size : 0;
  }
  int sync() override {
    const auto size = static_cast<std::size_t>(pptr() - pbase());
    setp(block_.data(), block_.data() + block_.size());
    return put(block_.data(), size) ? 0 : -1;
  }

 private:
  bool put(const char* data, std::size_t size) {
    if (failure_) return false;
    try {
      file_.write(data, size);
    } catch (...) {
      failure_ = std::current_exception();
    }
    return !failure_;
  }

  AtomicFile& file_;
  std::exception_ptr failure_;
  std::array<char, 1 << 16> block_;
};

OutputFile::OutputFile(std::filesystem::path path) {
  if (path == "-") {
    stream_ = &std::cout;
    return;
  }
  remove_unfinished_files_on_signals();
  file_ = std::make_unique<AtomicFile>(std::move(path));
  buffer_ = std::make_unique<Buffer>(*file_);
  own_stream_ = std::make_unique<std::ostream>(buffer_.get());
  stream_ = own_stream_.get();
}

OutputFile::~OutputFile() = default;

std::filesystem::path OutputFile::unfinished() const { return file_ ? file_->name_for_others() : "-"; }

void OutputFile::check() {
  if (*stream_) return;
  if (buffer_) buffer_->rethrow();
  throw IoError("stdout", "to write on", last_error());
}

void OutputFile::commit() {
  errno = 0;
  stream_->flush();
  check();
  if (file_) file_->commit();
}

}  // namespace kineograph::video

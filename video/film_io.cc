#include "video/film_io.h"

#include <array>
#include <fstream>
#include <string_view>

#include "kineograph/error.h"

namespace kineograph::video {
namespace {

constexpr std::string_view kMagic = "YUV4MPEG2";

bool is_stream(const std::filesystem::path& path) {
  // What stands behind a descriptor, such as /dev/fd/3, may be a file without a name of its own.
  if (path.string().starts_with("/dev/")) return true;
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  return path == "-" || (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
                         !std::filesystem::is_directory(status));
}

bool is_y4m(const std::filesystem::path& path) {
  if (is_stream(path) || path.extension() == ".y4m") return true;
  std::array<char, kMagic.size()> begin{};
  std::ifstream(path, std::ios::binary).read(begin.data(), begin.size());
  return std::string_view(begin.data(), begin.size()) == kMagic;
}

}  // namespace

FilmSource::FilmSource(const std::filesystem::path& path, std::int64_t start, bool seek)
    : name_(path == "-" ? "stdin" : path.string()) {
  std::int64_t skipped = start;
  if (is_y4m(path)) {
    file_ = std::make_unique<VideoFile>(path);
    reader_ = &file_->reader();
    total_ = file_->total_frames();
    if (const std::string fields = header().interlacing(); !fields.empty())
      throw FormatError(name_, "video of whole frames", "interlaced video (" + fields + ")",
                        "Deinterlace it first, with ffmpeg: -vf bwdif.");
  } else {
    decoder_ = std::make_unique<VideoDecoder>(path, DecodeOptions{start, seek, false, {}});
    try {
      decoded_ = std::make_unique<Y4mReader>(decoder_->stream(), name_);
    } catch (const FormatError&) {
      // Its own words say more about the file than a stream that ends too early.
      if (const std::string said = decoder_->end(); !said.empty())
        throw FormatError(name_, "a video that ffmpeg decodes", said);
      throw;
    }
    reader_ = decoded_.get();
    total_ = decoder_->info().frames;
    if (seek) skipped = 0;
  }
  if (total_) total_ = std::max<std::int64_t>(0, *total_ - start);
  std::vector<std::uint8_t> frame;
  for (; skipped > 0 && next(frame); --skipped) continue;
}

bool FilmSource::next(std::vector<std::uint8_t>& frame) {
  if (ended_) return false;
  try {
    if (reader_->next(frame)) return true;
  } catch (const FormatError& error) {
    problem_ = error.what();
  }
  ended_ = true;
  if (decoder_)
    if (const std::string said = decoder_->end(); !said.empty())
      problem_ = FormatError(name_, "a video that ffmpeg decodes", said).what();
  return false;
}

bool is_film(const std::filesystem::path& path) {
  return is_stream(path) || path.extension() == ".y4m" || is_encoded(path);
}

FilmSink::FilmSink(const std::filesystem::path& path, const Y4mHeader& header, const EncodeOptions& options)
    : file_(path) {
  if (!is_stream(path) && is_encoded(path))
    encoder_ = std::make_unique<VideoEncoder>(file_.unfinished(), path, header, options);
  write_y4m_header(encoder_ ? encoder_->stream() : file_.stream(), header);
}

void FilmSink::write(std::span<const std::uint8_t> frame) {
  write_y4m_frame(encoder_ ? encoder_->stream() : file_.stream(), frame);
}

void FilmSink::flush() {
  if (!encoder_) {
    file_.stream().flush();
    file_.check();
  } else if (!encoder_->stream().flush()) {
    encoder_->end();
  }
}

void FilmSink::finish() {
  if (encoder_) encoder_->end();
  file_.commit();
}

}  // namespace kineograph::video

// Films in and out, whatever holds them: .y4m, pipes of it, and files that ffmpeg decodes and encodes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "video/clip_io.h"
#include "video/ffmpeg.h"
#include "video/output_file.h"
#include "video/y4m.h"

namespace kineograph::video {

/// Frames of a film, one after the other.
class FilmSource {
 public:
  /// "-" (stdin), a pipe or a device is read as y4m, and so is a file that begins as one; other files are decoded by
  /// ffmpeg. Leaves out the first `start` frames: of a file that ffmpeg decodes by their time, or with `seek` false by
  /// decoding them. Throws IoError, FormatError; the latter for interlaced y4m, whose frames are two moments each.
  explicit FilmSource(const std::filesystem::path& path, std::int64_t start = 0, bool seek = true);

  const Y4mHeader& header() const noexcept { return reader_->header(); }
  /// What ffprobe says of the file, where ffmpeg decodes it.
  const VideoInfo* info() const noexcept { return decoder_ ? &decoder_->info() : nullptr; }
  /// Frames that next() will give, where that is known.
  std::optional<std::int64_t> total() const noexcept { return total_; }

  /// The next frame's planes; false at the end, and where what comes is no frame.
  bool next(std::vector<std::uint8_t>& frame);
  /// What was wrong with the film where next() ended; empty where that was its end.
  const std::string& problem() const noexcept { return problem_; }

 private:
  std::string name_, problem_;
  std::unique_ptr<VideoFile> file_;
  std::unique_ptr<VideoDecoder> decoder_;
  std::unique_ptr<Y4mReader> decoded_;
  Y4mReader* reader_ = nullptr;
  bool ended_ = false;
  std::optional<std::int64_t> total_;
};

/// Whether a FilmSink writes it: "-", .y4m, a pipe or a device as y4m, or a file that is_encoded().
bool is_film(const std::filesystem::path& path);

/// A film, written frame by frame; a file takes its name in finish().
class FilmSink {
 public:
  FilmSink(const std::filesystem::path& path, const Y4mHeader& header, const EncodeOptions& options);
  void write(std::span<const std::uint8_t> frame);
  /// What was written leaves for who reads it. Throws IoError where it was refused.
  void flush();
  void finish();

 private:
  OutputFile file_;
  std::unique_ptr<VideoEncoder> encoder_;
};

}  // namespace kineograph::video

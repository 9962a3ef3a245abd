// Video files by the programs ffmpeg and ffprobe: decoded into a pipe of y4m, encoded from one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <istream>
#include <optional>
#include <ostream>
#include <string>

#include "video/process.h"
#include "video/y4m.h"

namespace kineograph::video {

/// A file's first video stream, as ffprobe tells it.
struct VideoInfo {
  std::int64_t width = 0, height = 0;
  std::string pixel_format;            ///< ffmpeg's name, such as yuv420p10le
  std::string field_order;             ///< "progressive", "unknown"; others are interlaced: "tt", "bb", "tb", "bt"
  std::string rate = "25/1";           ///< frames a second
  std::optional<std::int64_t> frames;  ///< where the file says so
  std::string range, space, transfer, primaries;  ///< of colours; empty where the file says nothing
  bool interlaced() const { return field_order.size() == 2; }
  double frames_per_second() const;
};
/// Throws IoError where the file or ffprobe is missing, FormatError where it is no video.
VideoInfo probe_video(const std::filesystem::path& path);

/// The pixel format of y4m that keeps a file's chroma and bits: yuv420p, yuv422p, yuv444p or gray, with p9 to p16
/// behind.
std::string y4m_format(const std::string& pixel_format);

struct DecodeOptions {
  std::int64_t start = 0;  ///< frames that are left out
  bool seek = true;        ///< finds the start by its time, which is fast; else all frames before are decoded
  bool strict = false;     ///< ends at the first thing that is wrong with a file; else what can be decoded comes
  std::string format;      ///< ffmpeg's name of the pixel format; empty: y4m_format() of the file's
};

/// A file, decoded. Interlaced video is deinterlaced by ffmpeg's bwdif, a frame for each two fields.
class VideoDecoder {
 public:
  VideoDecoder(const std::filesystem::path& path, const DecodeOptions& options);
  std::istream& stream() noexcept { return stream_; }
  const VideoInfo& info() const noexcept { return info_; }
  /// Waits for ffmpeg. Empty where all went well, else what it said.
  std::string end();

 private:
  VideoInfo info_;
  Process process_;
  std::istream stream_;
};

struct EncodeOptions {
  /// A file whose sound, subtitles, chapters and metadata are copied; empty for none.
  std::filesystem::path source;
  double source_start = 0;    ///< seconds of it that are left out
  bool only_as_long = false;  ///< sound ends where the video does
  bool lossless = false;      ///< FFV1 in Matroska: what comes in comes out
  VideoInfo colours;          ///< whose range, space, transfer and primaries are written down
};

/// Whether a file is one that this encodes: .mp4, .m4v, .mov, .mkv, .webm.
bool is_encoded(const std::filesystem::path& path);

/// Frames, encoded as players read them: H.264, of more than 8 bits H.265, in .webm VP9.
class VideoEncoder {
 public:
  /// Writes the file `file` in the container that `name` says. `header` is what the frames will be.
  VideoEncoder(const std::filesystem::path& file, const std::filesystem::path& name, const Y4mHeader& header,
               const EncodeOptions& options);
  std::ostream& stream() noexcept { return stream_; }
  /// Waits until all is written. Throws IoError with ffmpeg's words.
  void end();

 private:
  std::string name_;
  Process process_;
  std::ostream stream_;
};

}  // namespace kineograph::video

// YUV4MPEG2 video: what `ffmpeg -f yuv4mpegpipe` reads and writes.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace kineograph::video {

/// How chroma planes lie over the luma plane.
enum class Chroma { mono, c420, c422, c444 };

/// A stream's header. Frames are planes: Y, then Cb and Cr except for mono. A sample is a byte, or with more than 8
/// bits two, the lower one first.
struct Y4mHeader {
  std::int64_t width = 0, height = 0;
  Chroma chroma = Chroma::c420;
  int bits = 8;  ///< of a sample, 8 to 16
  /// Whether Y, Cb and Cr use 0..255 (XCOLORRANGE=FULL) rather than 16..235 and 16..240, or as much of more bits.
  bool full_range = false;
  /// The header line's other parameters (rate, aspect, interlacing, siting), written back as they were read.
  std::vector<std::string> parameters = {"F25:1", "Ip", "A1:1", "C444"};

  std::int64_t chroma_width() const noexcept;
  std::int64_t chroma_height() const noexcept;
  std::int64_t sample_bytes() const noexcept { return bits > 8 ? 2 : 1; }
  std::int64_t frame_bytes() const noexcept;
  /// "top field first" or "bottom field first" or "mixed", for Ix of the parameters; nothing for whole frames.
  std::string interlacing() const;
};

/// Reads a stream frame by frame; memory is one frame. Throws FormatError (malformed, cut short).
class Y4mReader {
 public:
  /// Reads the header. `in` must outlive the reader; `where` names the source in errors.
  Y4mReader(std::istream& in, std::string where);
  const Y4mHeader& header() const noexcept { return header_; }
  /// Reads the next frame's planes into `frame`, which grows only as bytes arrive; false at the stream's end.
  bool next(std::vector<std::uint8_t>& frame);
  /// Frames read so far.
  std::int64_t frames() const noexcept { return frames_; }

 private:
  std::istream& in_;
  std::string where_;
  Y4mHeader header_;
  std::int64_t frames_ = 0;
};

/// Writes a header, then frames of header.frame_bytes() bytes. The caller checks the stream.
void write_y4m_header(std::ostream& out, const Y4mHeader& header);
void write_y4m_frame(std::ostream& out, std::span<const std::uint8_t> frame);

}  // namespace kineograph::video

// Whole videos in memory, as a trainer needs them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace kineograph::video {

/// A video as 8-bit colours: a frame is planes red, green and blue (3, height, width).
struct Video {
  std::string name;
  std::int64_t width = 0, height = 0;
  std::vector<std::vector<std::uint8_t>> frames;

  std::int64_t length() const noexcept { return static_cast<std::int64_t>(frames.size()); }
  std::int64_t bytes() const noexcept { return length() * 3 * width * height; }
};

/// Reads a .y4m file itself and anything else through the program ffmpeg. Throws IoError where the file or ffmpeg is
/// missing, FormatError where what is in the file cannot be decoded or is no video; IoError beyond `most_bytes`.
Video read_video(const std::filesystem::path& path, std::int64_t most_bytes);

}  // namespace kineograph::video

#include "video/train/video.h"

#include <utility>

#include "kineograph/error.h"
#include "video/clip_io.h"
#include "video/ffmpeg.h"
#include "video/latents.h"
#include "video/y4m.h"

namespace kineograph::video {
namespace {

std::uint8_t to_level(float colour) {
  const float level = (colour + 1) * 127.5f;
  return !(level > 0) ? 0 : level >= 254.5f ? 255 : static_cast<std::uint8_t>(level + 0.5f);
}

Video read_frames(Y4mReader& reader, std::string name, std::int64_t most_bytes) {
  const Y4mHeader& header = reader.header();
  Video video{std::move(name), header.width, header.height, {}};
  std::vector<std::uint8_t> planes;
  std::vector<float> rgb;
  while (reader.next(planes)) {
    rgb.resize(static_cast<std::size_t>(3 * header.width * header.height));
    if (video.bytes() + static_cast<std::int64_t>(rgb.size()) > most_bytes)
      throw IoError(video.name, "clips that fit into half of the memory",
                    "more than " + std::to_string(most_bytes >> 20) + " MB of frames", "Cut or scale them down first.");
    frame_to_rgb(planes, header, rgb.data());
    std::vector<std::uint8_t>& frame = video.frames.emplace_back(rgb.size());
    for (std::size_t i = 0; i < rgb.size(); ++i) frame[i] = to_level(rgb[i]);
  }
  if (video.frames.empty()) throw FormatError(video.name, "at least one frame", "none");
  return video;
}

}  // namespace

Video read_video(const std::filesystem::path& path, std::int64_t most_bytes) {
  std::error_code unknown;
  const auto status = std::filesystem::status(path, unknown);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw IoError(path.string(), "a file, which can be read again when the run is resumed",
                  std::filesystem::is_directory(status) ? "a folder" : "a device or a pipe");
  if (path.extension() == ".y4m") {
    VideoFile file(path);
    return read_frames(file.reader(), path.string(), most_bytes);
  }
  // A clip with damaged frames is refused, not silently learnt from.
  VideoDecoder decoder(path, {0, false, true, "yuv444p"});
  const auto refuse = [&](const std::string& said) {
    throw FormatError(path.string(), "a video that ffmpeg decodes", said);
  };
  Video video;
  try {
    Y4mReader reader(decoder.stream(), path.string());
    video = read_frames(reader, path.string(), most_bytes);
  } catch (const FormatError&) {
    // Its own words say more about the file than a stream that ends too early.
    if (const std::string said = decoder.end(); !said.empty()) refuse(said);
    throw;
  }
  if (const std::string said = decoder.end(); !said.empty()) refuse(said);
  return video;
}

}  // namespace kineograph::video

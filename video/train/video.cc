#include "video/train/video.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <istream>
#include <memory>
#include <streambuf>
#include <utility>

#include "kineograph/error.h"
#include "video/clip_io.h"
#include "video/latents.h"
#include "video/y4m.h"

extern char** environ;

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

// What a process writes, as a stream.
class PipeBuffer : public std::streambuf {
 public:
  explicit PipeBuffer(int descriptor) : descriptor_(descriptor) {}
  PipeBuffer(const PipeBuffer&) = delete;
  PipeBuffer& operator=(const PipeBuffer&) = delete;
  ~PipeBuffer() override { close(descriptor_); }

 protected:
  int_type underflow() override {
    ssize_t count;
    do count = read(descriptor_, buffer_.data(), buffer_.size());
    while (count < 0 && errno == EINTR);
    if (count <= 0) return traits_type::eof();
    setg(buffer_.data(), buffer_.data(), buffer_.data() + count);
    return traits_type::to_int_type(buffer_.front());
  }

 private:
  int descriptor_;
  std::array<char, 1 << 16> buffer_;
};

// What ffmpeg may take a file for.
constexpr char kContainers[] =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,gif,apng,ivf,nut,m4v,h264,hevc,obu,"
    "av1,"
    "dv,mxf,yuv4mpegpipe";

// ffmpeg decoding one file, and what it has to say.
class Decoder {
 public:
  explicit Decoder(const std::filesystem::path& path) : path_(path.string()), messages_(std::tmpfile()) {
    int ends[2];
    if (messages_ == nullptr || pipe2(ends, O_CLOEXEC) != 0)
      throw IoError("a pipe from ffmpeg", "to be made", std::strerror(errno));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fileno(messages_), STDERR_FILENO);
    // "file:" makes a path of what would otherwise be taken for an option, a protocol or a list, and only containers of
    // videos are opened: a playlist would make it read other files and addresses. -xerror: a clip with damaged frames
    // is refused, not silently learnt from.
    const std::string input = "file:" + path_;
    const char* const arguments[] = {"ffmpeg",      "-v",
                                     "error",       "-nostdin",
                                     "-xerror",     "-protocol_whitelist",
                                     "file",        "-format_whitelist",
                                     kContainers,   "-i",
                                     input.c_str(), "-an",
                                     "-pix_fmt",    "yuv444p",
                                     "-f",          "yuv4mpegpipe",
                                     "-",           nullptr};
    const int failure =
        posix_spawnp(&process_, "ffmpeg", &actions, nullptr, const_cast<char* const*>(arguments), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    buffer_ = std::make_unique<PipeBuffer>(ends[0]);
    if (failure == 0) return;
    process_ = -1;
    std::fclose(std::exchange(messages_, nullptr));
    throw IoError("ffmpeg", "the program that decodes " + path_, std::strerror(failure),
                  "Install ffmpeg, or give .y4m files.");
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() {
    if (process_ > 0) end();
    if (messages_ != nullptr) std::fclose(messages_);
  }

  std::streambuf* buffer() { return buffer_.get(); }
  // Waits for it; true where it went well.
  bool end() {
    buffer_.reset();
    int status = 0;
    while (waitpid(process_, &status, 0) < 0 && errno == EINTR) continue;
    process_ = -1;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  [[noreturn]] void fail() {
    std::rewind(messages_);
    char text[1024] = {};
    const std::size_t length = std::fread(text, 1, sizeof text - 1, messages_);
    std::string said(text, length);
    while (!said.empty() && said.back() == '\n') said.pop_back();
    throw FormatError(path_, "a video that ffmpeg decodes", said.empty() ? "nothing that it does" : said);
  }

 private:
  std::string path_;
  std::FILE* messages_;
  std::unique_ptr<PipeBuffer> buffer_;
  pid_t process_ = -1;
};

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
  errno = 0;
  if (access(path.c_str(), R_OK) != 0) throw IoError(path.string(), "a file that can be read", std::strerror(errno));
  Decoder decoder(path);
  std::istream in(decoder.buffer());
  Video video;
  try {
    Y4mReader reader(in, path.string());
    video = read_frames(reader, path.string(), most_bytes);
  } catch (const FormatError&) {
    // Its own words say more about the file than a stream that ends too early.
    if (!decoder.end()) decoder.fail();
    throw;
  }
  if (!decoder.end()) decoder.fail();
  return video;
}

}  // namespace kineograph::video

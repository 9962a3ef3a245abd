#include "video/ffmpeg.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/json.h"
#include "kineograph/error.h"

namespace kineograph::video {
namespace {

constexpr const char* kHint = "Install ffmpeg, or give .y4m files.";
using Arguments = std::vector<std::string>;

void add(Arguments& arguments, std::initializer_list<std::string> more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
}

// "file:" makes a path of what would otherwise be taken for an option, a protocol or a list.
std::string as_path(const std::filesystem::path& path) { return "file:" + path.string(); }

// The containers of videos that ffmpeg may take a file for: a playlist would make it read other files and addresses.
constexpr const char* kContainers =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,gif,apng,ivf,nut,m4v,h264,hevc,obu,"
    "av1,dv,mxf,yuv4mpegpipe";

// The options that name a stranger's file as an input, of ffmpeg and of ffprobe.
void add_source(Arguments& arguments, const std::filesystem::path& path) {
  add(arguments, {"-protocol_whitelist", "file", "-format_whitelist", kContainers, "-i", as_path(path)});
}

std::string word(const Json& stream, const char* key) {
  const Json* const found = stream.find(key);
  const std::string text = (found ? found->as<std::string>() : std::nullopt).value_or("");
  return text == "unknown" ? "" : text;
}

int bits_of(std::string_view format) {
  for (const std::string_view end : {"le", "be"})
    if (format.ends_with(end)) format.remove_suffix(end.size());
  for (const auto& [name, bits] : {std::pair<std::string_view, int>{"p9", 9},
                                   {"p10", 10},
                                   {"p12", 12},
                                   {"p14", 14},
                                   {"p16", 16},
                                   {"p010", 10},
                                   {"p210", 10},
                                   {"p410", 10},
                                   {"p016", 16},
                                   {"gray9", 9},
                                   {"gray10", 10},
                                   {"gray12", 12},
                                   {"gray14", 14},
                                   {"gray16", 16},
                                   {"rgb48", 16},
                                   {"bgr48", 16},
                                   {"rgba64", 16},
                                   {"x2rgb10", 10},
                                   {"v210", 10}})
    if (format.ends_with(name)) return bits;
  return 8;
}

Arguments decoding(const std::filesystem::path& path, const VideoInfo& info, const DecodeOptions& options) {
  Arguments arguments{"ffmpeg", "-v", "error", "-nostdin"};
  if (options.strict) add(arguments, {"-xerror"});
  const bool seek = options.seek && options.start > 0;
  // A quarter of a frame earlier than the frame: rounding of times must not lose it.
  if (seek)
    add(arguments, {"-ss", std::to_string((static_cast<double>(options.start) - 0.25) / info.frames_per_second())});
  add_source(arguments, path);
  add(arguments, {"-map", "0:v:0", "-an", "-sn"});
  if (info.interlaced()) add(arguments, {"-vf", "bwdif=mode=send_frame:deint=all"});
  std::string format = options.format.empty() ? y4m_format(info.pixel_format) : options.format;
  add(arguments, {"-pix_fmt", format, "-strict", "-1", "-f", "yuv4mpegpipe", "-"});
  return arguments;
}

// What reads frames as `header` has them; and whether its chroma is what players expect.
Arguments encoder_of(const std::filesystem::path& name, const Y4mHeader& header) {
  const bool deep = header.bits > 8, even = header.width % 2 == 0 && header.height % 2 == 0;
  const bool webm = name.extension() == ".webm";
  Arguments arguments{"-pix_fmt", std::string(even ? "yuv420p" : "yuv444p") + (deep ? "10le" : "")};
  if (webm)
    add(arguments, {"-c:v", "libvpx-vp9", "-crf", "18", "-b:v", "0", "-row-mt", "1"});
  else if (deep)
    add(arguments, {"-c:v", "libx265", "-crf", "16", "-x265-params", "log-level=error"});
  else
    add(arguments, {"-c:v", "libx264", "-crf", "16"});
  if (deep && !webm && name.extension() != ".mkv") add(arguments, {"-tag:v", "hvc1"});
  return arguments;
}

Arguments encoding(const std::filesystem::path& file, const std::filesystem::path& name, const Y4mHeader& header,
                   const EncodeOptions& options) {
  Arguments arguments{"ffmpeg", "-v", "error", "-y", "-f", "yuv4mpegpipe", "-i", "pipe:0"};
  const bool copies = !options.source.empty();
  if (copies) {
    if (options.source_start > 0) add(arguments, {"-ss", std::to_string(options.source_start)});
    add_source(arguments, options.source);
  }
  add(arguments, {"-map", "0:v:0"});
  if (copies) {
    add(arguments, {"-map", "1:a?", "-c:a", "copy", "-map_metadata", "1", "-map_chapters", "1"});
    // Subtitles of one container are nothing for another.
    if (options.source.extension() == name.extension()) add(arguments, {"-map", "1:s?", "-c:s", "copy"});
    if (options.only_as_long) add(arguments, {"-shortest"});
  }
  if (options.lossless) {
    add(arguments, {"-c:v", "ffv1", "-level", "3", "-g", "1", "-slicecrc", "1"});
  } else {
    const Arguments encoder = encoder_of(name, header);
    arguments.insert(arguments.end(), encoder.begin(), encoder.end());
  }
  add(arguments, {"-color_range", header.full_range ? "pc" : "tv"});
  for (const auto& [option, value] : {std::pair<std::string, std::string>{"-colorspace", options.colours.space},
                                      {"-color_trc", options.colours.transfer},
                                      {"-color_primaries", options.colours.primaries}})
    if (!value.empty()) add(arguments, {option, value});
  const std::string extension = name.extension().string();
  if (extension == ".mkv")
    add(arguments, {"-f", "matroska"});
  else if (extension == ".webm")
    add(arguments, {"-f", "webm"});
  else
    add(arguments, {"-movflags", "+faststart", "-f", extension == ".mov" ? "mov" : "mp4"});
  add(arguments, {as_path(file)});
  return arguments;
}

}  // namespace

double VideoInfo::frames_per_second() const {
  char* end = nullptr;
  const double above = std::strtod(rate.c_str(), &end), below = *end == '/' ? std::strtod(end + 1, nullptr) : 1;
  return above > 0 && below > 0 ? above / below : 25;
}

VideoInfo probe_video(const std::filesystem::path& path) {
  errno = 0;
  if (access(path.c_str(), R_OK) != 0)
    throw IoError(path.string(), "a file that can be read", std::error_code(errno, std::generic_category()));
  if (std::filesystem::is_directory(path)) throw IoError(path.string(), "a file that can be read", "a directory");
  Arguments arguments{"ffprobe", "-v", "error", "-select_streams", "v:0", "-show_streams", "-of", "json"};
  add_source(arguments, path);
  const std::string told =
      output_of(arguments, path.string(), "the program that tells what is in " + path.string(), kHint);
  const Json all = parse_json<FormatError>(told, path.string() + ": ffprobe's answer");
  const Json* const streams = all.find("streams");
  if (!streams || !streams->array() || streams->array()->empty())
    throw FormatError(path.string(), "a file with a video stream", "none");
  const Json& stream = streams->array()->front();
  const auto extent = [&](const char* key) {
    const Json* const found = stream.find(key);
    return (found ? found->as<std::int64_t>() : std::nullopt).value_or(0);
  };
  VideoInfo info;
  info.width = extent("width");
  info.height = extent("height");
  info.pixel_format = word(stream, "pix_fmt");
  info.field_order = word(stream, "field_order");
  info.range = word(stream, "color_range");
  info.space = word(stream, "color_space");
  info.transfer = word(stream, "color_transfer");
  info.primaries = word(stream, "color_primaries");
  if (const std::string rate = word(stream, "r_frame_rate"); !rate.empty()) info.rate = rate;
  if (const std::string frames = word(stream, "nb_frames"); !frames.empty())
    info.frames = std::atoll(frames.c_str());
  else if (const std::string seconds = word(stream, "duration"); !seconds.empty())
    info.frames = static_cast<std::int64_t>(std::atof(seconds.c_str()) * info.frames_per_second() + 0.5);
  return info;
}

std::string y4m_format(const std::string& pixel_format) {
  const int bits = bits_of(pixel_format);
  const auto has = [&](std::string_view part) { return pixel_format.find(part) != std::string::npos; };
  const std::string deep = bits > 8 ? std::to_string(bits) + "le" : "";
  if (has("gray") || has("mono") || has("ya8") || has("ya16")) return "gray" + deep;
  // yuvj names 8 bits of full range, which plain yuv would be converted from.
  const std::string yuv = pixel_format.starts_with("yuvj") ? "yuvj" : "yuv";
  if (has("420") || has("nv12") || has("nv21") || has("p010") || has("p016")) return yuv + "420p" + deep;
  if (has("422") || has("nv16") || has("p210") || has("v210")) return yuv + "422p" + deep;
  return yuv + "444p" + deep;
}

VideoDecoder::VideoDecoder(const std::filesystem::path& path, const DecodeOptions& options)
    : info_(probe_video(path)),
      process_(decoding(path, info_, options), Process::Pipe::from, "the program that decodes " + path.string(), kHint),
      stream_(process_.buffer()) {}

std::string VideoDecoder::end() {
  const bool well = process_.end();
  std::string said = process_.said();
  if (!well && said.empty()) said = "ffmpeg failed and said nothing";
  return said;
}

bool is_encoded(const std::filesystem::path& path) {
  constexpr std::array<std::string_view, 5> kKnown{".mp4", ".m4v", ".mov", ".mkv", ".webm"};
  return std::find(kKnown.begin(), kKnown.end(), path.extension().string()) != kKnown.end();
}

VideoEncoder::VideoEncoder(const std::filesystem::path& file, const std::filesystem::path& name,
                           const Y4mHeader& header, const EncodeOptions& options)
    : name_(name.string()),
      process_(encoding(file, name, header, options), Process::Pipe::to, "the program that encodes " + name.string(),
               kHint),
      stream_(process_.buffer()) {}

void VideoEncoder::end() {
  stream_.flush();
  const bool took_all = static_cast<bool>(stream_);
  stream_.rdbuf(nullptr);
  if (process_.end() && took_all) return;
  const std::string said = process_.said();
  throw IoError(name_, "a video that ffmpeg can write", said.empty() ? "it failed and said nothing" : said);
}

}  // namespace kineograph::video

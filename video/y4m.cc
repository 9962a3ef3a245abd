#include "video/y4m.h"

#include <algorithm>
#include <charconv>
#include <istream>
#include <ostream>
#include <string_view>
#include <utility>

#include "kineograph/error.h"

namespace kineograph::video {
namespace {

// A true header line has about 100 characters.
constexpr std::size_t kMaxLine = 4096;
// Keeps width * height * 3 far from overflow; the largest video formats have 16384.
constexpr std::int64_t kMaxExtent = 65536;
constexpr std::size_t kReadStep = std::size_t{1} << 20;

// Reads up to and without '\n'; false at the end of the stream before any character.
bool read_line(std::istream& in, std::string& line, const std::string& where) {
  line.clear();
  for (int c = in.get(); c != std::istream::traits_type::eof(); c = in.get()) {
    if (c == '\n') return true;
    if (line.size() == kMaxLine)
      throw FormatError(where, "a line of at most " + std::to_string(kMaxLine) + " characters", "a longer one",
                        "Is this a .y4m stream?");
    line += static_cast<char>(c);
  }
  if (in.bad()) throw IoError(where, "to read a line", "an error of the operating system");
  if (line.empty()) return false;
  throw FormatError(where, "a line's end", "the stream's end", "The stream is cut short.");
}

std::int64_t parse_extent(std::string_view text, const std::string& where) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > kMaxExtent)
    throw FormatError(where, "an extent from 1 to " + std::to_string(kMaxExtent), "\"" + std::string(text) + "\"");
  return value;
}

// How chroma lies and how many bits a sample has: C420jpeg, C422p10, Cmono12 and their like.
void parse_chroma(std::string_view text, Y4mHeader& header, const std::string& where) {
  constexpr std::pair<std::string_view, Chroma> kLayouts[] = {
      {"420", Chroma::c420}, {"422", Chroma::c422}, {"444", Chroma::c444}, {"mono", Chroma::mono}};
  for (const auto& [name, chroma] : kLayouts) {
    if (!text.starts_with(name)) continue;
    std::string_view rest = text.substr(name.size());
    header.chroma = chroma;
    // The names of 8-bit 4:2:0 differ in where chroma samples sit, by at most half a pixel; they are treated alike.
    if (rest.empty() || (chroma == Chroma::c420 && (rest == "jpeg" || rest == "mpeg2" || rest == "paldv"))) return;
    if (chroma != Chroma::mono && rest.front() == 'p') rest.remove_prefix(1);
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), header.bits);
    if (error == std::errc() && end == rest.data() + rest.size() && header.bits > 8 && header.bits <= 16) return;
    break;
  }
  throw FormatError(where, "C420jpeg, C420mpeg2, C420paldv, C422, C444, Cmono or one of 9 to 16 bits, such as C420p10",
                    "C" + std::string(text), "With ffmpeg: -pix_fmt yuv420p.");
}

}  // namespace

std::int64_t Y4mHeader::chroma_width() const noexcept {
  if (chroma == Chroma::mono) return 0;
  return chroma == Chroma::c444 ? width : (width + 1) / 2;
}

std::int64_t Y4mHeader::chroma_height() const noexcept {
  if (chroma == Chroma::mono) return 0;
  return chroma == Chroma::c420 ? (height + 1) / 2 : height;
}

std::int64_t Y4mHeader::frame_bytes() const noexcept {
  return sample_bytes() * (width * height + 2 * chroma_width() * chroma_height());
}

std::string Y4mHeader::interlacing() const {
  for (const std::string& parameter : parameters) {
    if (parameter == "It") return "top field first";
    if (parameter == "Ib") return "bottom field first";
    if (parameter == "Im") return "mixed";
  }
  return {};
}

Y4mReader::Y4mReader(std::istream& in, std::string where) : in_(in), where_(std::move(where)) {
  std::string line;
  if (!read_line(in_, line, where_)) throw FormatError(where_, "a .y4m stream", "an empty one");
  std::string_view rest = line;
  const auto next_word = [&rest] {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    return word;
  };
  if (next_word() != "YUV4MPEG2")
    throw FormatError(where_, "a .y4m stream, which begins with YUV4MPEG2", "something else",
                      "With ffmpeg: -f yuv4mpegpipe.");
  header_.parameters.clear();
  while (!rest.empty()) {
    const std::string_view word = next_word();
    if (word.empty()) continue;
    if (word[0] == 'W') {
      header_.width = parse_extent(word.substr(1), where_ + ": width");
    } else if (word[0] == 'H') {
      header_.height = parse_extent(word.substr(1), where_ + ": height");
    } else {
      if (word[0] == 'C') parse_chroma(word.substr(1), header_, where_ + ": chroma");
      if (word == "XCOLORRANGE=FULL") header_.full_range = true;
      header_.parameters.emplace_back(word);
    }
  }
  if (header_.width == 0 || header_.height == 0) throw FormatError(where_, "a width and a height", "not both");
}

bool Y4mReader::next(std::vector<std::uint8_t>& frame) {
  const std::string where = where_ + ": frame " + std::to_string(frames_);
  std::string line;
  if (!read_line(in_, line, where)) return false;
  if (line != "FRAME" && line.compare(0, 6, "FRAME ") != 0)
    throw FormatError(where, "a line that begins with FRAME", "something else");
  const auto total = static_cast<std::size_t>(header_.frame_bytes());
  for (std::size_t have = 0; have < total;) {
    const std::size_t want = frame.size() >= total ? total - have : std::min(kReadStep, total - have);
    if (frame.size() < have + want) frame.resize(have + want);
    in_.read(reinterpret_cast<char*>(frame.data() + have), static_cast<std::streamsize>(want));
    have += static_cast<std::size_t>(in_.gcount());
    if (!in_)
      throw FormatError(where, std::to_string(total) + " bytes", std::to_string(have), "The stream is cut short.");
  }
  frame.resize(total);
  ++frames_;
  return true;
}

void write_y4m_header(std::ostream& out, const Y4mHeader& header) {
  out << "YUV4MPEG2 W" << header.width << " H" << header.height;
  for (const std::string& parameter : header.parameters) out << ' ' << parameter;
  out << '\n';
}

void write_y4m_frame(std::ostream& out, std::span<const std::uint8_t> frame) {
  out << "FRAME\n";
  out.write(reinterpret_cast<const char*>(frame.data()), static_cast<std::streamsize>(frame.size()));
}

}  // namespace kineograph::video

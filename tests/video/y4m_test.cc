#include "video/y4m.h"

#include <gtest/gtest.h>

#include <sstream>

#include "kineograph/error.h"

namespace kineograph::video {
namespace {

struct Video {
  Y4mHeader header;
  std::vector<std::vector<std::uint8_t>> frames;
};

Video read(const std::string& bytes) {
  std::istringstream in(bytes);
  Y4mReader reader(in, "clip.y4m");
  Video video{reader.header(), {}};
  std::vector<std::uint8_t> frame;
  while (reader.next(frame)) video.frames.push_back(frame);
  return video;
}

std::string refusal(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Y4m, KnowsPlaneSizes) {
  // 5 x 3: chroma planes of odd extents round up.
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 F25:1\n").header.frame_bytes(), 15 + 2 * 3 * 2);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 F25:1 C420mpeg2\n").header.frame_bytes(), 15 + 2 * 3 * 2);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 F25:1 C420paldv\n").header.frame_bytes(), 15 + 2 * 3 * 2);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 F25:1 C422\n").header.frame_bytes(), 15 + 2 * 3 * 3);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 F25:1 C444\n").header.frame_bytes(), 45);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 F25:1 Cmono\n").header.frame_bytes(), 15);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 C420p10\n").header.frame_bytes(), 2 * (15 + 2 * 3 * 2));
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 C444p16\n").header.bits, 16);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 Cmono12\n").header.bits, 12);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 C422p9\n").header.sample_bytes(), 2);
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 It C420\n").header.interlacing(), "top field first");
  EXPECT_EQ(read("YUV4MPEG2 W5 H3 Ip C420\n").header.interlacing(), "");
  EXPECT_TRUE(read("YUV4MPEG2 W5 H3 C420jpeg XCOLORRANGE=FULL\n").header.full_range);
  EXPECT_FALSE(read("YUV4MPEG2 W5 H3 C420jpeg XCOLORRANGE=LIMITED\n").header.full_range);
}

TEST(Y4m, WritesBackWhatItRead) {
  const std::string bytes =
      "YUV4MPEG2 W2 H2 F30000:1001 Ip A128:117 C420jpeg XYSCSS=420JPEG\nFRAME\nabcdefFRAME\nghijkl";
  const Video video = read(bytes);
  ASSERT_EQ(video.frames.size(), 2u);
  std::ostringstream out;
  write_y4m_header(out, video.header);
  for (const auto& frame : video.frames) write_y4m_frame(out, frame);
  EXPECT_EQ(out.str(), bytes);
}

TEST(Y4m, SkipsFrameParameters) { EXPECT_EQ(read("YUV4MPEG2 W1 H1 Cmono\nFRAME Ip XA\nxFRAME\ny").frames.size(), 2u); }

TEST(Y4m, RefusesOtherStreams) {
  EXPECT_NE(refusal("").find("empty"), std::string::npos);
  EXPECT_NE(refusal("RIFF....AVI \n").find("YUV4MPEG2"), std::string::npos);
  EXPECT_NE(refusal(std::string(100000, 'x')).find("4096"), std::string::npos);
  EXPECT_NE(refusal("YUV4MPEG2 W2 F25:1\n").find("a width and a height"), std::string::npos);
  for (const char* extent : {"W0", "W-2", "W99999999999999999999", "W65537", "W2x", "W"})
    EXPECT_NE(refusal("YUV4MPEG2 " + std::string(extent) + " H2\n").find("from 1 to 65536"), std::string::npos)
        << extent;
  for (const char* chroma : {"C420p8", "C420p17", "C420p", "C410", "C444alpha", "Cmonop10", "C420p10x"})
    EXPECT_NE(refusal("YUV4MPEG2 W2 H2 " + std::string(chroma) + "\n").find(chroma), std::string::npos) << chroma;
  EXPECT_NE(refusal("YUV4MPEG2 W2 H2\nFRAMES\n").find("frame 0"), std::string::npos);
  EXPECT_NE(refusal("YUV4MPEG2 W2 H2\nFRAME\nabcdefgarbage\n").find("frame 1"), std::string::npos);
}

TEST(Y4m, RefusesEveryTruncation) {
  const std::string whole = "YUV4MPEG2 W2 H2 C444\nFRAME\nabcdefghijklFRAME\nabcdefghijkl";
  const std::size_t header = whole.find('\n') + 1, frame = 6 + 12;
  ASSERT_EQ(refusal(whole), "accepted");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const bool between_frames = length >= header && (length - header) % frame == 0;
    EXPECT_EQ(refusal(whole.substr(0, length)) == "accepted", between_frames) << length;
  }
}

// The largest frame is 12 GB; a header that promises it must not cost that.
TEST(Y4m, AllocatesOnlyWhatArrives) {
  std::istringstream in("YUV4MPEG2 W65536 H65536 C444\nFRAME\nabc");
  Y4mReader reader(in, "clip.y4m");
  std::vector<std::uint8_t> frame;
  EXPECT_THROW(reader.next(frame), FormatError);
  EXPECT_LE(frame.capacity(), std::size_t{1} << 21);
}

}  // namespace
}  // namespace kineograph::video

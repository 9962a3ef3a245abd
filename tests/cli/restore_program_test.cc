// kineograph restore as a user runs it.
#include <nlohmann/json.hpp>

#include "program.h"

namespace kineograph {
namespace {

class RestoreProgramTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    make_video_and_identity(5);
    make_restoring_identity("models/restore");
  }
};

TEST_F(RestoreProgramTest, GivesAsManyFramesInFilesAndPipes) {
  const Result pipe = sh("cat clip.y4m | kineograph restore --model models/restore | cat >out.y4m");
  ASSERT_EQ(pipe.code, 0) << pipe.err;
  EXPECT_TRUE(content(folder_ / "out.y4m") == content(folder_ / "clip.y4m"));
  EXPECT_NE(pipe.err.find("5 frames in "), std::string::npos) << pipe.err;
  EXPECT_NE(pipe.err.find(" frames/s (engine "), std::string::npos) << pipe.err;
  EXPECT_NE(pipe.err.find(" of 255 levels"), std::string::npos) << pipe.err;
  const Result file =
      sh("kineograph restore --model models/restore --input clip.y4m --output file.y4m --strength 25.5 --damage noise "
         "--window 2 --shifts 16 --threads 1 --dtype bf16");
  ASSERT_EQ(file.code, 0) << file.err;
  EXPECT_TRUE(content(folder_ / "file.y4m") == content(folder_ / "clip.y4m"));
  EXPECT_NE(file.err.find("noise of 25.5 of 255 levels taken out"), std::string::npos) << file.err;
}

TEST_F(RestoreProgramTest, WorksInAPipeOfFfmpegs) {
  if (sh("command -v ffmpeg").code != 0) GTEST_SKIP() << "no ffmpeg";
  // Around the window of 12, and every format.
  for (const auto& [format, frames] : {std::pair{"yuv420p", 1},
                                       {"yuv420p", 11},
                                       {"yuv420p", 12},
                                       {"yuv420p", 13},
                                       {"yuv422p", 38},
                                       {"yuv444p", 2},
                                       {"yuvj420p", 17},
                                       {"gray", 18},
                                       {"yuv420p10le", 14},
                                       {"yuv444p12le", 3},
                                       {"gray16le", 2}}) {
    const Result pipe = sh("ffmpeg -v error -f lavfi -i testsrc2=size=23x15:rate=8 -frames:v " +
                           std::to_string(frames) + " -pix_fmt " + format +
                           " -strict -1 -f yuv4mpegpipe - | tee in.y4m | kineograph restore --model models/restore | "
                           "tee out.y4m | ffmpeg -v error -i - -f rawvideo -y out.raw");
    ASSERT_EQ(pipe.code, 0) << format << pipe.err;
    EXPECT_TRUE(content(folder_ / "in.y4m") == content(folder_ / "out.y4m")) << format << " " << frames;
  }
}

TEST_F(RestoreProgramTest, FindsTheShippedModel) {
  const Result given = sh("KINEOGRAPH_MODELS=$PWD/models kineograph restore <clip.y4m >out.y4m");
  ASSERT_EQ(given.code, 0) << given.err;
  EXPECT_TRUE(content(folder_ / "out.y4m") == content(folder_ / "clip.y4m"));
  const Result missing = sh("KINEOGRAPH_MODELS=$PWD/nothing kineograph restore <clip.y4m");
  EXPECT_EQ(missing.code, 1);
  EXPECT_EQ(missing.out, "");
  EXPECT_NE(missing.err.find("nothing/restore"), std::string::npos) << missing.err;
  EXPECT_NE(missing.err.find("KINEOGRAPH_MODELS"), std::string::npos) << missing.err;
  // Beside the program's bin, as installed.
  const Result beside =
      sh("mkdir -p prefix/bin prefix/share/kineograph && cp -r models prefix/share/kineograph/ && "
         "cp '" KINEOGRAPH_PROGRAM
         "' prefix/bin/ && unset KINEOGRAPH_MODELS && prefix/bin/kineograph restore <clip.y4m >o2.y4m");
  ASSERT_EQ(beside.code, 0) << beside.err;
  EXPECT_TRUE(content(folder_ / "o2.y4m") == content(folder_ / "clip.y4m"));
}

TEST_F(RestoreProgramTest, SaysWhatIsWrong) {
  std::ofstream(folder_ / "text.y4m") << "not a video";
  const std::string restore = "kineograph restore --model models/restore ";
  for (const char* usage : {"--strength strong", "--strength -1", "--strength 256", "--strength 1e",
                            "--damage scratches", "--window 0", "--shifts 3", "--output out.txt", "--start -1",
                            "--frames 0", "--segment 1", "--list", "--join folder", "--nonsense"}) {
    const Result result = sh(restore + usage + " <clip.y4m");
    EXPECT_EQ(result.code, 2) << usage << result.err;
    EXPECT_EQ(result.out, "") << usage;
  }
  std::ofstream(folder_ / "interlaced.y4m") << "YUV4MPEG2 W4 H4 It Cmono\n";
  for (const auto& [input, said] : {std::pair{"text.y4m", "text.y4m"},
                                    {"missing.y4m", "missing.y4m"},
                                    {"missing.mp4", "missing.mp4"},
                                    {"interlaced.y4m", "interlaced video (top field first)"}}) {
    std::ofstream(folder_ / "out.y4m") << "good";
    const Result result = sh(restore + "--output out.y4m --input " + input);
    EXPECT_EQ(result.code, 1) << input;
    EXPECT_NE(result.err.find(said), std::string::npos) << result.err;
    EXPECT_EQ(content(folder_ / "out.y4m"), "good");
  }
  const Result wrong = sh("kineograph restore --model identity <clip.y4m");
  EXPECT_EQ(wrong.code, 1);
  EXPECT_NE(wrong.err.find("ada_norm_zero"), std::string::npos) << wrong.err;
  EXPECT_EQ(wrong.out, "");
  EXPECT_EQ(sh(restore + "<clip.y4m >/dev/full").code, 1);
  const Result full = sh("trap '' XFSZ; ulimit -f 1; " + restore + "--output out.y4m <clip.y4m");
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_EQ(content(folder_ / "out.y4m"), "good");
}

// What came is kept, and the exit code says that more should have come.
TEST_F(RestoreProgramTest, KeepsWhatCameOfATruncatedClip) {
  const std::string clip = content(folder_ / "clip.y4m");
  std::ofstream(folder_ / "cut.y4m", std::ios::binary) << clip.substr(0, clip.size() - 1);
  const Result cut = sh("kineograph restore cut.y4m out.y4m --model models/restore");
  EXPECT_EQ(cut.code, 1);
  EXPECT_NE(cut.err.find("frame 4"), std::string::npos) << cut.err;
  EXPECT_NE(cut.err.find("4 frames before it"), std::string::npos) << cut.err;
  const std::size_t frame = 6 + 20 * 12 * 3 / 2;
  EXPECT_TRUE(content(folder_ / "out.y4m") == clip.substr(0, clip.size() - frame));
  // Where nothing came there is nothing to keep.
  std::ofstream(folder_ / "out.y4m") << "good";
  std::ofstream(folder_ / "cut.y4m", std::ios::binary) << clip.substr(0, 100);
  EXPECT_EQ(sh("kineograph restore cut.y4m out.y4m --model models/restore").code, 1);
  EXPECT_EQ(content(folder_ / "out.y4m"), "good");
}

TEST_F(RestoreProgramTest, KeepsWhatCameBeforeASignal) {
  const Result ended =
      sh("mkfifo pipe; '" KINEOGRAPH_PROGRAM
         "' restore pipe out.y4m --model models/restore & program=$!; exec 3>pipe; cat clip.y4m >&3; sleep 1; "
         "kill -INT $program; sleep 0.2; exec 3>&-; wait $program");
  // Background jobs of a script ignore SIGINT: nothing ends, and all is written.
  EXPECT_EQ(ended.code, 0) << ended.err;
  const Result terminated =
      sh("rm -f pipe out.y4m; mkfifo pipe; '" KINEOGRAPH_PROGRAM
         "' restore pipe out.y4m --model models/restore & program=$!; exec 3>pipe; cat clip.y4m >&3; sleep 1; "
         "kill -TERM $program; tail -c 366 clip.y4m >&3; sleep 0.2; exec 3>&-; wait $program");
  EXPECT_EQ(terminated.code, 128 + 15) << terminated.err;
  EXPECT_NE(terminated.err.find("Ended by a signal"), std::string::npos) << terminated.err;
  EXPECT_EQ(content(folder_ / "out.y4m").substr(0, content(folder_ / "clip.y4m").size()),
            content(folder_ / "clip.y4m"));
}

// Ctrl-C reaches every process of the foreground group: the program, and the ffmpeg that encodes for it.
TEST_F(RestoreProgramTest, KeepsAVideoFileWhatCameBeforeCtrlC) {
  if (sh("command -v ffmpeg").code != 0) GTEST_SKIP() << "no ffmpeg";
  const Result ended =
      sh("set -m; mkfifo pipe; '" KINEOGRAPH_PROGRAM
         "' restore pipe out.mp4 --model models/restore & program=$!; exec 3>pipe; cat clip.y4m >&3; sleep 1; "
         "kill -INT -- -$program; tail -c 366 clip.y4m >&3; sleep 0.2; exec 3>&-; wait $program");
  EXPECT_EQ(ended.code, 128 + 2) << ended.err;
  EXPECT_NE(ended.err.find("Ended by a signal"), std::string::npos) << ended.err;
  const Result decoded = sh("ffmpeg -v error -i out.mp4 -f framecrc - | grep -vc '^#'");
  EXPECT_TRUE(decoded.err.empty()) << decoded.err;
  EXPECT_GE(std::stoi(decoded.out), 5) << decoded.out;
}

TEST_F(RestoreProgramTest, TakesAPartAndShowsBothBesideEachOther) {
  const std::string clip = content(folder_ / "clip.y4m");
  const std::size_t header = clip.find('\n') + 1, frame = 6 + 20 * 12 * 3 / 2;
  ASSERT_EQ(sh("kineograph restore --model models/restore --start 1 --frames 3 <clip.y4m >out.y4m").code, 0);
  EXPECT_TRUE(content(folder_ / "out.y4m") == clip.substr(0, header) + clip.substr(header + frame, 3 * frame));
  ASSERT_EQ(sh("kineograph restore --model models/restore --compare clip.y4m both.y4m").code, 0);
  const std::string both = content(folder_ / "both.y4m");
  EXPECT_EQ(both.substr(0, 18), "YUV4MPEG2 W40 H12 ");
  const std::size_t body = both.find('\n') + 7;
  for (int y = 0; y < 12; ++y) {
    const std::string row = clip.substr(header + 6 + static_cast<std::size_t>(20 * y), 20);
    EXPECT_TRUE(both.substr(body + static_cast<std::size_t>(40 * y), 40) == row + row) << y;
  }
  EXPECT_EQ(both.size(), body - 6 + 5 * (2 * (frame - 6) + 6));
}

TEST_F(RestoreProgramTest, ReadsAndWritesDescriptors) {
  ASSERT_EQ(sh("kineograph restore <(cat clip.y4m) >(cat >out.y4m) --model models/restore && sleep 0.3").code, 0);
  EXPECT_TRUE(content(folder_ / "out.y4m") == content(folder_ / "clip.y4m"));
  ASSERT_EQ(sh("kineograph restore /dev/fd/3 /dev/fd/4 --model models/restore 3<clip.y4m 4>out2.y4m").code, 0);
  EXPECT_TRUE(content(folder_ / "out2.y4m") == content(folder_ / "clip.y4m"));
}

TEST_F(RestoreProgramTest, ReportsAsJson) {
  const Result report = sh("kineograph restore clip.y4m out.y4m --json --model models/restore --damage both");
  ASSERT_EQ(report.code, 0) << report.err;
  const nlohmann::json json = nlohmann::json::parse(report.out);
  EXPECT_EQ(json["frames"], 5);
  EXPECT_EQ(json["complete"], true);
  ASSERT_EQ(json["windows"].size(), 1u);
  EXPECT_EQ(json["windows"][0]["damage"], "both");
  EXPECT_EQ(json["windows"][0]["count"], 5);
}

class RestoreVideoFileTest : public RestoreProgramTest {
 protected:
  void SetUp() override {
    RestoreProgramTest::SetUp();
    if (sh("command -v ffmpeg ffprobe").code != 0) GTEST_SKIP() << "no ffmpeg";
    ASSERT_EQ(sh(make("", "noisy.mkv")).code, 0);
  }
  static std::string make(const std::string& options, const std::string& name) {
    return "ffmpeg -v error -y -f lavfi -i testsrc2=size=48x32:rate=8:duration=2 -f lavfi -i sine=duration=2 "
           "-metadata title='A title' -c:v ffv1 -c:a aac " +
           options + " " + name;
  }
  std::string probe(const std::string& name, const std::string& entries) {
    return sh("ffprobe -v error -show_entries " + entries + " -of csv=p=0 " + name).out;
  }
};

TEST_F(RestoreVideoFileTest, ComesOutWithItsSoundAndMetadata) {
  for (const char* name : {"out.mp4", "out.mkv", "out.mov"}) {
    const Result result = sh("kineograph restore noisy.mkv " + std::string(name) + " --model models/restore");
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(probe(name, "stream=codec_name"), "h264\naac\n") << name;
    EXPECT_NE(probe(name, "format_tags=title").find("A title"), std::string::npos) << name;
    EXPECT_NE(probe(name, "stream=width,height,pix_fmt").find("48,32,yuv420p"), std::string::npos) << name;
    const std::string sound = "ffmpeg -v error -i ";
    EXPECT_EQ(sh(sound + name + " -map 0:a -c copy -f md5 -").out,
              sh(sound + "noisy.mkv -map 0:a -c copy -f md5 -").out);
  }
  // Frames of a model that changes nothing, as lossy as H.264 at crf 16.
  EXPECT_EQ(sh("ffmpeg -v error -i out.mp4 -f framecrc - | grep -c '^0'").out, "16\n");
}

TEST_F(RestoreVideoFileTest, KeepsTenBits) {
  ASSERT_EQ(sh(make("-pix_fmt yuv420p10le", "deep.mkv")).code, 0);
  const Result result = sh("kineograph restore deep.mkv out.mp4 --model models/restore");
  if (result.err.find("libx265") != std::string::npos) GTEST_SKIP() << "an ffmpeg without x265";
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(probe("out.mp4", "stream=codec_name,pix_fmt").find("hevc,yuv420p10le"), std::string::npos);
}

TEST_F(RestoreVideoFileTest, IsDeinterlacedAndSaidSo) {
  ASSERT_EQ(sh(make("-vf setfield=tff -r 25 -c:v mpeg2video -flags +ilme+ildct", "fields.mkv")).code, 0);
  const Result result = sh("kineograph restore fields.mkv out.mp4 --model models/restore");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.err.find("deinterlaced"), std::string::npos) << result.err;
}

TEST_F(RestoreVideoFileTest, SaysWhatFfmpegSays) {
  std::ofstream(folder_ / "text.mp4") << "no video";
  const Result text = sh("kineograph restore text.mp4 out.mp4 --model models/restore");
  EXPECT_EQ(text.code, 1);
  EXPECT_NE(text.err.find("text.mp4: expected a video that ffmpeg decodes, found "), std::string::npos) << text.err;
  // Sound that WebM does not hold: nothing is left behind.
  const Result webm = sh("kineograph restore noisy.mkv out.webm --model models/restore");
  EXPECT_EQ(webm.code, 1);
  EXPECT_NE(webm.err.find("out.webm: expected a video that ffmpeg can write"), std::string::npos) << webm.err;
  EXPECT_EQ(sh("ls -A | grep -c webm").out, "0\n");
  const Result same = sh("kineograph restore noisy.mkv noisy.mkv --model models/restore");
  EXPECT_EQ(same.code, 2) << same.err;
  const Result none = sh("PATH=/nowhere; kineograph restore noisy.mkv out.mp4 --model models/restore");
  EXPECT_EQ(none.code, 1);
  EXPECT_NE(none.err.find("Install ffmpeg"), std::string::npos) << none.err;
}

}  // namespace
}  // namespace kineograph

// kineograph restore as a user runs it.
#include "program.h"

namespace kineograph {
namespace {

class RestoreProgramTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    make_video_and_identity(5);
    TransformerTemporalConfig config = small_config(48);
    config.norm_type = NormType::ada_norm_zero;
    config.num_embeds_ada_norm = 3;
    const auto model = TransformerTemporalModel::from_config(config, 1);
    const Tensor zero_weight(DType::f32, {48, 8}), zero_bias(DType::f32, {48});
    std::vector<Parameter> parameters = model.parameters();
    for (Parameter& parameter : parameters) {
      if (parameter.name == "proj_out.weight") parameter.value = zero_weight;
      if (parameter.name == "proj_out.bias") parameter.value = zero_bias;
    }
    TransformerTemporalModel::from_state_dict(config, parameters, nullptr).save_pretrained(folder_ / "models/restore");
  }
};

TEST_F(RestoreProgramTest, GivesAsManyFramesInFilesAndPipes) {
  const Result pipe = sh("cat clip.y4m | kineograph restore --model models/restore | cat >out.y4m");
  ASSERT_EQ(pipe.code, 0) << pipe.err;
  EXPECT_TRUE(content(folder_ / "out.y4m") == content(folder_ / "clip.y4m"));
  EXPECT_NE(pipe.err.find("5 frames in "), std::string::npos) << pipe.err;
  EXPECT_NE(pipe.err.find(" frames/s (noise, sigma "), std::string::npos) << pipe.err;
  const Result file =
      sh("kineograph restore --model models/restore --input clip.y4m --output file.y4m --strength 25.5 --damage noise "
         "--window 2 --shifts 16 --threads 1 --dtype bf16");
  ASSERT_EQ(file.code, 0) << file.err;
  EXPECT_TRUE(content(folder_ / "file.y4m") == content(folder_ / "clip.y4m"));
  EXPECT_NE(file.err.find("(noise, sigma 25.5; engine"), std::string::npos) << file.err;
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
                                       {"gray", 18}}) {
    const Result pipe = sh("ffmpeg -v error -f lavfi -i testsrc2=size=23x15:rate=8 -frames:v " +
                           std::to_string(frames) + " -pix_fmt " + format +
                           " -f yuv4mpegpipe - | tee in.y4m | kineograph restore --model models/restore | "
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
  const std::string clip = content(folder_ / "clip.y4m");
  std::ofstream(folder_ / "cut.y4m", std::ios::binary) << clip.substr(0, clip.size() - 1);
  const std::string restore = "kineograph restore --model models/restore ";
  for (const char* usage :
       {"--strength strong", "--strength -1", "--strength 256", "--strength 1e", "--damage scratches", "--window 0",
        "--shifts 3", "--input clip.mp4", "--output out.mp4", "--nonsense"}) {
    const Result result = sh(restore + usage + " <clip.y4m");
    EXPECT_EQ(result.code, 2) << usage << result.err;
    EXPECT_EQ(result.out, "") << usage;
  }
  for (const auto& [input, said] :
       {std::pair{"text.y4m", "text.y4m"}, {"cut.y4m", "frame 4"}, {"missing.y4m", "missing.y4m"}}) {
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

}  // namespace
}  // namespace kineograph

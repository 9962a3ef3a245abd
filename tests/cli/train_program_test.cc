// kineograph train as a user runs it: interrupted, killed, on a full disk, with broken clips.
#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "program.h"

namespace kineograph {
namespace {

class TrainProgramTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    make_video_and_identity(5);
    std::ofstream(folder_ / "config.json") << R"({"num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 48,
        "norm_num_groups": 1, "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 3, "double_self_attention": false,
        "_prediction_type": "epsilon"})";
  }

  // A small run into `output`, of `steps` steps.
  static std::string train(const std::string& output, int steps, const std::string& more = {}) {
    return "kineograph train --config config.json --clips clip.y4m drawn --batch 2 --frames 3 --crop 12 --patches 4 "
           "--warmup 4 --threads 2 --output " +
           output + " --steps " + std::to_string(steps) + " " + more;
  }
  // Losses, norms and rates; the last column is time.
  std::string log(const std::string& run) const { return sh("cut -d, -f1-4 " + run + "/log.csv").out; }
};

TEST_F(TrainProgramTest, WritesAModelThatRestores) {
  const Result result = sh(train("run", 12, "--dtype bf16"));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("clip.y4m: 5 frames of 20 x 12"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("trained run: 12 steps, loss "), std::string::npos) << result.err;
  for (const char* file :
       {"config.json", "diffusion_pytorch_model.safetensors", "checkpoint.safetensors", "log.csv", "loss.svg"})
    EXPECT_TRUE(fs::exists(folder_ / "run" / file)) << file;
  const std::string lines = log("run");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 13);
  const Result restored = sh("kineograph restore --model run <clip.y4m >out.y4m");
  ASSERT_EQ(restored.code, 0) << restored.err;
  EXPECT_EQ(fs::file_size(folder_ / "out.y4m"), fs::file_size(folder_ / "clip.y4m"));
  // The same again, and from the model that was made.
  ASSERT_EQ(sh(train("again", 12, "--dtype bf16")).code, 0);
  EXPECT_TRUE(content(folder_ / "run/checkpoint.safetensors") == content(folder_ / "again/checkpoint.safetensors"));
  const Result from =
      sh("kineograph train --init run --clips drawn --crop 12 --batch 1 --warmup 0 --steps 2 --output on");
  EXPECT_EQ(from.code, 0) << from.err;
}

TEST_F(TrainProgramTest, SavesOnASignalAndContinuesBitForBit) {
  ASSERT_EQ(sh(train("whole", 400)).code, 0);
  for (const auto& [signal, code] : {std::pair{"INT", 130}, {"TERM", 143}, {"HUP", 129}}) {
    const std::string run = signal;
    // exec: a shell that waits in between would get the signal in its stead.
    std::string command = train(run, 400);
    command.replace(0, std::string("kineograph").size(), "exec '" KINEOGRAPH_PROGRAM "'");
    const Result stopped = sh("set -m; (" + command +
                              ") & run=$!\n"
                              "for i in $(seq 400); do [ \"$(cat " +
                              run +
                              "/log.csv 2>/dev/null | wc -l)\" -gt 20 ] && break; sleep 0.02; done\n"
                              "kill -" +
                              run + " $run; wait $run; exit $?");
    EXPECT_EQ(stopped.code, code) << stopped.err;
    EXPECT_NE(stopped.err.find("interrupted after step "), std::string::npos) << stopped.err;
    const std::string half = log(run);
    EXPECT_LT(std::count(half.begin(), half.end(), '\n'), 401) << "was not interrupted in the middle";
    const Result resumed = sh("kineograph train --resume --output " + run);
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_TRUE(content(folder_ / run / "checkpoint.safetensors") == content(folder_ / "whole/checkpoint.safetensors"));
    EXPECT_TRUE(content(folder_ / run / "diffusion_pytorch_model.safetensors") ==
                content(folder_ / "whole/diffusion_pytorch_model.safetensors"));
    EXPECT_EQ(log(run), log("whole"));
  }
}

// Killed without a word while it does little else than write checkpoints, again and again, at other moments each time.
TEST_F(TrainProgramTest, LosesNothingWhenKilled) {
  ASSERT_EQ(sh(train("whole", 300)).code, 0);
  const Result first = sh("(" + train("run", 300, "--checkpoint-every 1") +
                          ") & run=$!\n"
                          "for i in $(seq 400); do [ -f run/checkpoint.safetensors ] && break; sleep 0.02; done\n"
                          "pkill -KILL -P $run; kill -KILL $run; wait $run");
  int kills = 1;
  bool left_behind = false;
  for (; kills < 12; ++kills) {
    const Result killed = sh("(exec '" KINEOGRAPH_PROGRAM
                             "' train --resume --checkpoint-every 1 --output run) & run=$!\n"
                             "sleep 0." +
                             std::to_string(20 + 7 * kills) + "; kill -KILL $run; wait $run; exit $?");
    if (killed.code == 0) break;
    ASSERT_EQ(killed.code, 137) << killed.err;
    ASSERT_NO_THROW(Checkpoint::open(folder_ / "run/checkpoint.safetensors"));
    ASSERT_NO_THROW(TransformerTemporalModel::from_pretrained(folder_ / "run"));
    for (const auto& entry : fs::directory_iterator(folder_ / "run"))
      left_behind = left_behind || entry.path().extension() == ".tmp";
  }
  const Result resumed = sh("kineograph train --resume --output run");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(content(folder_ / "run/checkpoint.safetensors") == content(folder_ / "whole/checkpoint.safetensors"));
  EXPECT_EQ(log("run"), log("whole"));
  RecordProperty("kills", kills);
  RecordProperty("killed while writing", left_behind);
}

TEST_F(TrainProgramTest, AFullDiskStopsItAndTheCheckpointIsWhole) {
  ASSERT_EQ(sh(train("run", 40)).code, 0);
  const std::string good = content(folder_ / "run/checkpoint.safetensors");
  // Anew, with room for less than a checkpoint: says so before it works.
  const Result none = sh("trap '' XFSZ; ulimit -f 2; " + train("none", 40));
  EXPECT_EQ(none.code, 1) << none.err;
  EXPECT_NE(none.err.find("error: "), std::string::npos) << none.err;
  EXPECT_FALSE(fs::exists(folder_ / "none/checkpoint.safetensors"));
  // In the middle: steps that are done are in the log, and the run can go on from the checkpoint.
  std::string command = train("half", 4000, "--checkpoint-every 5");
  command.replace(0, std::string("kineograph").size(), "exec '" KINEOGRAPH_PROGRAM "'");
  sh("(" + command +
     ") & run=$!\n"
     "for i in $(seq 400); do [ \"$(cat half/log.csv 2>/dev/null | wc -l)\" -gt 20 ] && break; sleep 0.02; done\n"
     "kill -KILL $run; wait $run");
  const std::string before = content(folder_ / "half/checkpoint.safetensors");
  const Result full = sh("trap '' XFSZ; ulimit -f 2; kineograph train --resume --output half");
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_TRUE(content(folder_ / "half/checkpoint.safetensors") == before);
  EXPECT_TRUE(content(folder_ / "run/checkpoint.safetensors") == good);
}

TEST_F(TrainProgramTest, AsksForTheSameRun) {
  ASSERT_EQ(sh(train("run", 6)).code, 0);
  const Result again = sh(train("run", 6));
  EXPECT_EQ(again.code, 1);
  EXPECT_NE(again.err.find("--resume continues it"), std::string::npos) << again.err;
  const Result same = sh(train("run", 6, "--resume"));
  EXPECT_EQ(same.code, 0) << same.err;
  for (const char* other : {"--seed 1", "--noise-level 1:2", "--ema 0.5", "--damage 1:0:0", "--learning-rate 1"}) {
    const Result result = sh(std::string("kineograph train --resume --output run ") + other);
    EXPECT_EQ(result.code, 1) << other;
    EXPECT_NE(result.err.find("as the run in run has it"), std::string::npos) << result.err;
  }
  EXPECT_EQ(sh("kineograph train --resume --output nothing").code, 1);
}

TEST_F(TrainProgramTest, ACheckpointMayNotSayWhatTheCommandLineMayNot) {
  ASSERT_EQ(sh(train("run", 6)).code, 0);
  const auto with = [&](const std::string& name, const nlohmann::json& value) {
    const Checkpoint good = Checkpoint::open(folder_ / "run/checkpoint.safetensors");
    auto metadata = good.metadata();
    auto settings = nlohmann::json::parse(metadata.at("settings"));
    (name == "step" ? metadata["step"] = value.dump()
                    : metadata["settings"] = (settings[name] = value, settings.dump()));
    fs::create_directories(folder_ / "hostile");
    save_safetensors(folder_ / "hostile/checkpoint.safetensors", good.tensors(), metadata);
    return sh("ulimit -v 4000000; timeout 20 '" KINEOGRAPH_PROGRAM "' train --resume --output hostile");
  };
  auto config = nlohmann::json::parse(
      Checkpoint::open(folder_ / "run/checkpoint.safetensors").metadata().at("settings"))["config"];
  config["attention_head_dim"] = 30000;
  for (const auto& [name, value] : std::initializer_list<std::pair<std::string, nlohmann::json>>{
           {"batch", 0},      {"batch", -1},    {"batch", 1e300},
           {"batch", "8"},    {"batch", 2.5},   {"clips", nlohmann::json::array()},
           {"steps", 0},      {"crop", 0},      {"frames", -5},
           {"patches", 1e9},  {"ema", 2},       {"threads", -1},
           {"engine", "gpu"}, {"dtype", "f64"}, {"noise-level", "5"},
           {"damage", "x"},   {"step", 7},      {"step", 1000000000000},
           {"step", -1},      {"step", 2.5},    {"config", config}}) {
    const Result result = with(name, value);
    EXPECT_TRUE(result.code == 1 || result.code == 2) << name << " " << value << ": " << result.code << result.err;
    EXPECT_NE(result.err.find("kineograph: error: "), std::string::npos) << name << " " << value << result.err;
  }
  // A run of very many steps of which no log tells.
  const Checkpoint good = Checkpoint::open(folder_ / "run/checkpoint.safetensors");
  auto metadata = good.metadata();
  auto settings = nlohmann::json::parse(metadata.at("settings"));
  settings["steps"] = 1000000000000;
  metadata["settings"] = settings.dump();
  metadata["step"] = "999999999999";
  save_safetensors(folder_ / "hostile/checkpoint.safetensors", good.tensors(), metadata);
  const Result result = sh("ulimit -v 4000000; timeout 20 '" KINEOGRAPH_PROGRAM "' train --resume --output hostile");
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_NE(result.err.find("log.csv"), std::string::npos) << result.err;
}

TEST_F(TrainProgramTest, TwoRunsDoNotShareAFolder) {
  ASSERT_EQ(sh(train("run", 6)).code, 0);
  for (const std::string& second : {std::string("kineograph train --resume --output run"), train("empty", 6)}) {
    const Result result = sh("mkdir -p empty; exec 8<run 9<empty; flock 8; flock 9; " + second);
    EXPECT_EQ(result.code, 1) << result.err;
    EXPECT_NE(result.err.find("that a training writes to"), std::string::npos) << result.err;
  }
}

// A playlist would make ffmpeg read what it names.
TEST_F(TrainProgramTest, FfmpegOpensVideosOnly) {
  if (sh("command -v ffmpeg").code != 0) GTEST_SKIP() << "no ffmpeg";
  ASSERT_EQ(sh("ffmpeg -v error -i clip.y4m -c:v mpeg4 clip.avi").code, 0);
  std::ofstream(folder_ / "list.mp4") << "ffconcat version 1.0\nfile clip.avi\n";
  std::ofstream(folder_ / "play.mp4") << "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.avi\n#EXT-X-ENDLIST\n";
  const auto with = [&](const std::string& clip) {
    return sh("kineograph train --config config.json --batch 1 --frames 2 --crop 12 --warmup 0 --steps 1 --output o-" +
              clip + " --clips " + clip);
  };
  EXPECT_EQ(with("clip.avi").code, 0);
  for (const char* list : {"list.mp4", "play.mp4"}) EXPECT_EQ(with(list).code, 1) << list;
  ASSERT_EQ(sh("mkfifo pipe.y4m pipe.mp4").code, 0);
  for (const char* pipe : {"pipe.y4m", "pipe.mp4"}) EXPECT_EQ(with(pipe).code, 1) << pipe;
}

TEST_F(TrainProgramTest, ExitsWith2OnWrongUsage) {
  for (const char* wrong : {"--noise-level 5", "--noise-level 9:5", "--noise-level 5:256", "--noise-level 5:x",
                            "--damage 1:1", "--damage 0:0:0", "--damage 1:1:-1", "--crop 13", "--warmup 7", "--ema 2",
                            "--batch 0", "--dtype f16", "--init run"}) {
    // Given twice is wrong too, but not what is to be tested: without those that train() gives.
    const Result result =
        sh(std::string("kineograph train --config config.json --clips drawn --steps 5 --output run ") +
           (std::string(wrong).find("warmup") == std::string::npos ? "--warmup 0 " : "") + wrong);
    EXPECT_EQ(result.code, 2) << wrong << result.err;
    EXPECT_FALSE(fs::exists(folder_ / "run")) << wrong;
  }
  EXPECT_EQ(sh("kineograph train --config config.json --output run").code, 2);
  EXPECT_EQ(sh("kineograph train --clips drawn --output run").code, 2);
  EXPECT_EQ(sh("kineograph train --clips drawn --config config.json").code, 2);
  std::ofstream(folder_ / "wrong.json") << R"({"in_channels": 48, "norm_num_groups": 1})";
  const Result other = sh("kineograph train --config wrong.json --clips drawn --output run");
  EXPECT_EQ(other.code, 1);
  EXPECT_NE(other.err.find("ada_norm_zero"), std::string::npos) << other.err;
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(TrainProgramTest, SaysWhichClipIsBroken) {
  const std::string clip = content(folder_ / "clip.y4m");
  std::ofstream(folder_ / "cut.y4m", std::ios::binary) << clip.substr(0, clip.size() - 1);
  std::ofstream(folder_ / "empty.y4m") << "YUV4MPEG2 W20 H12 F8:1\n";
  std::ofstream(folder_ / "text.mp4") << "not a video";
  std::ofstream(folder_ / "-y.mp4") << "not a video";
  std::ofstream(folder_ / "small.y4m") << "YUV4MPEG2 W8 H8 F8:1 Cmono\nFRAME\n" << std::string(64, 'a');
  const bool ffmpeg = sh("command -v ffmpeg").code == 0;
  const auto fails = [&](const std::string& path, const std::string& said) {
    const Result result =
        sh("kineograph train --config config.json --crop 12 --steps 5 --warmup 0 --output run --clips " + path);
    EXPECT_EQ(result.code, 1) << path;
    EXPECT_NE(result.err.find(said), std::string::npos) << path << ": " << result.err;
    EXPECT_FALSE(fs::exists(folder_ / "run")) << path;
  };
  fails("cut.y4m", "cut.y4m: frame 4");
  fails("empty.y4m", "at least one frame");
  fails("missing.y4m", "missing.y4m");
  fails("missing.mp4", "missing.mp4");
  fails("small.y4m", "at least 12 x 12 pixels");
  if (!ffmpeg) GTEST_SKIP() << "no ffmpeg";
  fails("text.mp4", "text.mp4: expected a video that ffmpeg decodes, found ");
  fails("./-y.mp4", "-y.mp4: expected a video that ffmpeg decodes, found ");
  ASSERT_EQ(sh("ffmpeg -v error -f lavfi -i testsrc2=size=40x30:rate=8 -frames:v 20 -c:v mpeg4 good.mp4").code, 0);
  const std::string good = content(folder_ / "good.mp4");
  std::ofstream(folder_ / "half.mp4", std::ios::binary) << good.substr(0, good.size() / 2);
  fails("half.mp4", "half.mp4: expected a video that ffmpeg decodes, found ");
  // Names that look like options, protocols or lists are paths all the same.
  for (const char* name : {"-i.mp4", "http:x.mp4", "%d.mp4", "a b'c.mp4"}) {
    std::ofstream(folder_ / name, std::ios::binary) << good;
    const Result result =
        sh("kineograph train --config config.json --crop 12 --steps 1 --warmup 0 --batch 1 --output \"$PWD/r$RANDOM\" "
           "--clips \"./" +
           std::string(name) + "\"");
    EXPECT_EQ(result.code, 0) << name << result.err;
    EXPECT_NE(result.err.find("20 frames of 40 x 30"), std::string::npos) << result.err;
  }
  const Result none =
      sh("PATH=/nowhere kineograph train --config config.json --crop 12 --steps 1 --warmup 0 --output run --clips "
         "good.mp4");
  EXPECT_EQ(none.code, 1);
  EXPECT_NE(none.err.find("Install ffmpeg"), std::string::npos) << none.err;
}

// One frame, an odd size.
TEST_F(TrainProgramTest, LearnsFromAStill) {
  std::ofstream(folder_ / "still.y4m", std::ios::binary) << "YUV4MPEG2 W13 H15 F8:1 Cmono\nFRAME\n"
                                                         << std::string(13 * 15, 'a');
  const Result result = sh(
      "kineograph train --config config.json --crop 12 --steps 3 --warmup 1 --batch 2 --output run --clips still.y4m");
  EXPECT_EQ(result.code, 0) << result.err;
}

}  // namespace
}  // namespace kineograph

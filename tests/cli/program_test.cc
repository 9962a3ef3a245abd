// The program as a user runs it: exit codes, what goes to stdout and stderr, files, pipes.
#include "program.h"

#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
namespace kineograph {
namespace {

TEST_F(ProgramTest, ExplainsItself) {
  const Result version = sh("kineograph --version");
  EXPECT_EQ(version.code, 0);
  EXPECT_NE(version.out.find("kineograph " + std::string(kineograph::version())), std::string::npos) << version.out;
  for (const std::string& engine : engines()) EXPECT_NE(version.out.find("engine " + engine), std::string::npos);
  EXPECT_NE(version.out.find(instruction_sets(engines().front()).front()), std::string::npos);
  EXPECT_EQ(version.err, "");
  for (const char* command : {"init", "inspect", "run"}) {
    const Result help = sh(std::string("kineograph ") + command + " --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find("Example"), std::string::npos) << help.out;
    EXPECT_EQ(help.err, "");
  }
  EXPECT_EQ(sh("kineograph --help").code, 0);
}

TEST_F(ProgramTest, ExitsWith2OnWrongUsage) {
  make_clip_and_model();
  const std::string run = "kineograph run --model module --input clip.safetensors --output o.npy ";
  for (const std::string& command :
       {std::string("kineograph nonsense"), std::string("kineograph run"), std::string("kineograph inspect"),
        std::string("kineograph init --output x"), std::string("kineograph init --config c --preset p --output x"),
        std::string("kineograph init --preset p"), std::string("kineograph init --preset nonsense --output x"),
        run + "--nonsense", run + "--num-frames 0", run + "--num-frames two", run + "--patch 0",
        run + "--engine nonsense", run + "--dtype f8", run + "--group-norm-scope pixel", run + "--threads -1",
        run + "--encoder-hidden-states text.txt",
        std::string("kineograph run --model module --input clip.avi --output o.npy"),
        std::string("kineograph run --model module --input clip.safetensors --output o.avi")}) {
    const Result result = sh(command);
    EXPECT_EQ(result.code, 2) << command << "\n" << result.err;
    EXPECT_EQ(result.out, "") << command;
    EXPECT_NE(result.err, "") << command;
  }
  EXPECT_FALSE(fs::exists(folder_ / "o.npy"));
}

TEST_F(ProgramTest, BenchMeasuresWhatItLists) {
  const Result listed = sh("kineograph bench --list --json --shape AD-2s,1x4x32x5x3:2x8");
  ASSERT_EQ(listed.code, 0) << listed.err;
  const auto shapes = nlohmann::json::parse(listed.out);
  ASSERT_EQ(shapes.size(), 2u);
  EXPECT_EQ(shapes[0]["head_dim"], 160);
  // (40 I^2 + 4 C I + 8 F I) operations a token.
  EXPECT_EQ(shapes[1]["flops"], (40 * 16 * 16 + 4 * 32 * 16 + 8 * 4 * 16) * 4 * 5 * 3);
  const Result all = sh("kineograph bench --list");
  EXPECT_EQ(all.code, 0);
  for (const char* id : {"AD-0 ", "ZS-mid", "GRID"}) EXPECT_NE(all.out.find(id), std::string::npos) << all.out;

  for (const char* pass : {"", " --backward"})
    for (const char* dtype : {"f32", "bf16"}) {
      const Result measured = sh("kineograph bench --json --repeats 1 --threads 2 --shape 1x4x32x5x3:2x8 --dtype " +
                                 std::string(dtype) + pass);
      ASSERT_EQ(measured.code, 0) << measured.err;
      const auto row = nlohmann::json::parse(measured.out).at(0);
      EXPECT_EQ(row["shape"], "1x4x32x5x3:2x8");
      EXPECT_EQ(row["engine"], engines().front());
      EXPECT_EQ(row["isa"], instruction_sets(engines().front()).front());
      EXPECT_EQ(row["dtype"], dtype);
      EXPECT_EQ(row["threads"], 2);
      for (const char* key : {"seconds_median", "gflops", "peak_gflops", "peak_share", "workspace_bytes"})
        EXPECT_GT(row[key].get<double>(), 0) << key;
      EXPECT_LT(row["max_error"].get<double>(), 0.05);
    }
  const Result by_default = sh("KINEOGRAPH_NUM_THREADS=3 kineograph bench --json --repeats 1 --shape 1x4x32x5x3:2x8");
  ASSERT_EQ(by_default.code, 0) << by_default.err;
  EXPECT_EQ(nlohmann::json::parse(by_default.out).at(0)["threads"], 3);
  for (const char* shape : {"AD-9", "1x4x32x5x3", "1x4x32x5x3:2x0", "1x4x32x5x3:2x8x", "-1x4x32x5x3:2x8"}) {
    const Result refused = sh("kineograph bench --shape " + std::string(shape));
    EXPECT_EQ(refused.code, 2) << shape;
    EXPECT_NE(refused.err.find("BxFxCxHxW"), std::string::npos) << refused.err;
  }
}

/// The names in a folder.
std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

TEST_F(ProgramTest, CtrlCInARunLeavesWhatWasThere) {
  make_model("wide", small_config(64));
  save_safetensors(folder_ / "long.safetensors", {{"hidden_states", noise({64, 64, 96, 96})}});
  (void)sh("true");  // its script and outputs are among the names before
  for (const char* output : {"out.safetensors", "out.npy"}) {
    for (const bool there : {false, true}) {
      if (there) std::ofstream(folder_ / output) << "good";
      const auto before = names_in(folder_);
      const Result ended =
          sh(std::string("timeout --preserve-status --signal=INT 0.4 '") + KINEOGRAPH_PROGRAM +
             "' run --engine reference --model wide --input long.safetensors --num-frames 64 --output " + output);
      EXPECT_EQ(ended.code, 128 + SIGINT) << ended.err;
      EXPECT_EQ(names_in(folder_), before);
      if (there) {
        EXPECT_EQ(content(folder_ / output), "good");
      }
    }
  }
}

TEST_F(ProgramTest, InitIsSeeded) {
  std::ofstream(folder_ / "config.json") << small_config(8).to_json();
  const Result result =
      sh("kineograph init --config config.json --seed 5 --output a && kineograph init --config config.json --seed 5 "
         "--output b && kineograph init --config config.json --seed 6 --output c");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  const auto weights = [&](const char* name) {
    return content(folder_ / name / "diffusion_pytorch_model.safetensors");
  };
  EXPECT_EQ(weights("a"), weights("b"));
  EXPECT_NE(weights("a"), weights("c"));
  EXPECT_EQ(sh("kineograph init --config config.json --dtype bf16 --variant bf16 --output d").code, 0);
  EXPECT_TRUE(fs::exists(folder_ / "d" / "diffusion_pytorch_model.bf16.safetensors"));
}

TEST_F(ProgramTest, ListsPresets) {
  const Result result = sh("kineograph init --list-presets");
  EXPECT_EQ(result.code, 0);
  for (const Preset& preset : presets()) EXPECT_NE(result.out.find(preset.name), std::string::npos);
}

TEST_F(ProgramTest, RefusesUnknownKeysUnlessLenient) {
  std::ofstream(folder_ / "config.json") << R"({"in_channels": 32, "num_attention_heads": 2,
      "attention_head_dim": 4, "num_layer": 2})";
  const Result strict = sh("kineograph init --config config.json --output a");
  EXPECT_EQ(strict.code, 1);
  EXPECT_NE(strict.err.find("num_layers"), std::string::npos) << "suggests the nearest key: " << strict.err;
  const Result lenient = sh("kineograph init --config config.json --output a --lenient");
  EXPECT_EQ(lenient.code, 0) << lenient.err;
  EXPECT_NE(lenient.err.find("num_layer"), std::string::npos);
}

TEST_F(ProgramTest, InspectPrintsJson) {
  make_clip_and_model();
  const Result result = sh("kineograph inspect module --json");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  const auto model = TransformerTemporalModel::from_pretrained(folder_ / "module");
  EXPECT_EQ(json["values"], model.num_parameters());
  EXPECT_EQ(json["tensors"].size(), model.parameters().size());
  ASSERT_EQ(json["modules"].size(), 1u);
  EXPECT_EQ(json["modules"][0]["config"]["in_channels"], 8);
  EXPECT_EQ(json["container"], "safetensors");
  const Result text = sh("kineograph inspect clip.safetensors");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("hidden_states"), std::string::npos);
  EXPECT_NE(text.out.find("[6, 8, 3, 2]"), std::string::npos);
}

TEST_F(ProgramTest, RunDoesWhatTheLibraryDoes) {
  make_clip_and_model();
  const auto model = TransformerTemporalModel::from_pretrained(folder_ / "module");
  for (std::int64_t num_frames : {1, 3}) {
    const std::string option = num_frames == 1 ? "" : " --num-frames 3";  // 1 is diffusers' default
    const Result result = sh("kineograph run --model module --input clip.safetensors --output s.safetensors" + option);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(result.err.find('\x1b'), std::string::npos) << "a bar where there is no terminal";
    const Tensor expected = model.forward(noise({6, 8, 3, 2}), {.num_frames = num_frames}).sample;
    const Tensor found = load("s.safetensors", "sample");
    ASSERT_EQ(found.shape(), expected.shape());
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), expected.bytes()), 0);
  }
}

TEST_F(ProgramTest, ReadsAndWritesNpy) {
  make_clip_and_model();
  const Result result =
      sh("kineograph run --model module --input clip.safetensors --output a.npy --num-frames 3 &&"
         "kineograph run --model module --input a.npy --output b.npy --num-frames 3 --verify");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(fs::file_size(folder_ / "b.npy"), 128 + 4 * 6 * 8 * 3 * 2);
  EXPECT_EQ(content(folder_ / "b.npy").substr(0, 6), "\x93NUMPY");
}

TEST_F(ProgramTest, EngineOptionsReachTheModel) {
  make_clip_and_model();
  const std::string run = "kineograph run --model module --input clip.safetensors --num-frames 3 ";
  const Result reference = sh(run + "--output r.npy --engine reference --threads 1");
  ASSERT_EQ(reference.code, 0) << reference.err;
  EXPECT_NE(reference.err.find("engine reference"), std::string::npos) << reference.err;
  ASSERT_EQ(sh(run + "--output f.npy --engine reference --group-norm-scope frame").code, 0);
  EXPECT_NE(content(folder_ / "r.npy"), content(folder_ / "f.npy"));
  EXPECT_EQ(sh(run + "--output b.npy --isa nonsense").code, 1);
}

TEST_F(ProgramTest, ConditioningComesFromFileOrCommandLine) {
  TransformerTemporalConfig config = small_config(8);
  config.double_self_attention = false;
  config.cross_attention_dim = 5;
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 10;
  make_model("module", config);
  const Tensor text = noise({2, 4, 5});
  Tensor timestep(DType::i64, {1}), labels(DType::i64, {2});
  timestep.data_as<std::int64_t>()[0] = 7;
  labels.data_as<std::int64_t>()[0] = 3;
  labels.data_as<std::int64_t>()[1] = 10;
  save_safetensors(folder_ / "all.safetensors", {{"hidden_states", noise({6, 8, 3, 2})},
                                                 {"encoder_hidden_states", text},
                                                 {"timestep", timestep},
                                                 {"class_labels", labels}});
  save_safetensors(folder_ / "bare.safetensors", {{"hidden_states", noise({6, 8, 3, 2})}});
  save_safetensors(folder_ / "text.safetensors", {{"anything", text}});
  const std::string run = "kineograph run --model module --num-frames 3 ";
  const std::string bare = run + "--input bare.safetensors --encoder-hidden-states text.safetensors ";
  ASSERT_EQ(sh(run + "--input all.safetensors --output a.npy").code, 0);
  const Result overridden = sh(bare + "--timestep 7 --class-labels 3,10 --output b.npy");
  ASSERT_EQ(overridden.code, 0) << overridden.err;
  EXPECT_EQ(content(folder_ / "a.npy"), content(folder_ / "b.npy"));
  ASSERT_EQ(sh(bare + "--timestep 8 --class-labels 3,10 --output b.npy").code, 0);
  EXPECT_NE(content(folder_ / "a.npy"), content(folder_ / "b.npy"));
  for (const std::string& wrong : {std::string("--timestep 7 --class-labels 3,11"), std::string("--timestep 7"),
                                   std::string("--class-labels 3,10")}) {
    const Result result = sh(bare + wrong + " --output c.npy");
    EXPECT_EQ(result.code, 1) << wrong;
    EXPECT_NE(result.err.find("expected"), std::string::npos) << result.err;
  }
  EXPECT_FALSE(fs::exists(folder_ / "c.npy"));
}

TEST_F(ProgramTest, AttendsInWindowsOfFrames) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 8;
  config.norm_num_groups = 2;
  const auto model = TransformerTemporalModel::from_config(config, 3);
  model.save_pretrained(folder_ / "module");
  const Tensor x = noise({9, 8, 3, 2});
  save_safetensors(folder_ / "clip.safetensors", {{"hidden_states", x}});
  const std::string run = "kineograph run --model module --input clip.safetensors --num-frames 9 --context-";
  const Result result =
      sh(run + "length 4 --context-stride 2 --context-weighting flat --output o.safetensors --verify");
  ASSERT_EQ(result.code, 0) << result.err;
  const Tensor want =
      model.forward(x, {.num_frames = 9, .context = ContextOptions{4, 2, ContextWeighting::flat}}).sample;
  const Checkpoint found = Checkpoint::open(folder_ / "o.safetensors");
  EXPECT_EQ(std::memcmp(found.find("sample").data(), want.data(), want.bytes()), 0);
  for (const char* wrong : {"length 10", "length 4 --context-stride 5"}) {
    const Result refused = sh(run + wrong + " --output no.safetensors");
    EXPECT_EQ(refused.code, 1) << wrong;
    EXPECT_NE(refused.err.find("context."), std::string::npos) << refused.err;
  }
  for (const char* wrong : {"length 0", "stride 2", "weighting flat", "length 4 --context-weighting gauss"})
    EXPECT_EQ(sh(run + wrong + " --output no.safetensors").code, 2) << wrong;
  EXPECT_FALSE(fs::exists(folder_ / "no.safetensors"));
  // Five frames are a clip of four and a rest, which is shorter than a window.
  make_video_and_identity(5);
  const Result video =
      sh("kineograph run --model identity --input clip.y4m --patch 4 --num-frames 4 --context-length 3 "
         "--output again.y4m");
  EXPECT_EQ(video.code, 0) << video.err;
  EXPECT_EQ(content(folder_ / "again.y4m"), content(folder_ / "clip.y4m"));
}

TEST_F(ProgramTest, SaysOnceWhatHasNoEffect) {
  make_video_and_identity(5);
  const Result result =
      sh("kineograph run --model identity --input clip.y4m --patch 4 --num-frames 2 --timestep 3 --output s.y4m");
  ASSERT_EQ(result.code, 0) << result.err;
  const std::size_t first = result.err.find("warning");
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find("warning", first + 1), std::string::npos) << result.err;
}

TEST_F(ProgramTest, NaNPassesThrough) {
  make_model("module", small_config(8));
  Tensor clip = noise({2, 8, 2, 2});
  clip.data_as<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  save_safetensors(folder_ / "clip.safetensors", {{"hidden_states", clip}});
  const Result result =
      sh("kineograph run --model module --input clip.safetensors --num-frames 2 --output s.safetensors --verify");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(std::isnan(load("s.safetensors", "sample").data_as<float>()[5]));
}

// Windows of 2 frames and a last one of 1; extents that no patch divides; every byte comes back.
TEST_F(ProgramTest, IdentityGivesTheVideoBack) {
  make_video_and_identity(5);
  for (const char* patch_and_frames : {"--num-frames 2", "--num-frames 16", ""}) {
    const Result result = sh(std::string("kineograph run --model identity --input clip.y4m --output s.y4m --patch 4 ") +
                             patch_and_frames);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(content(folder_ / "s.y4m") == content(folder_ / "clip.y4m"));
  }
}

TEST_F(ProgramTest, PipesVideo) {
  make_video_and_identity(5);
  const Result result =
      sh("cat clip.y4m | kineograph run --model identity --input - --output - --patch 4 | cat >s.y4m");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(content(folder_ / "s.y4m") == content(folder_ / "clip.y4m"));
  if (sh("command -v ffmpeg").code != 0) GTEST_SKIP() << "no ffmpeg";
  for (const char* format : {"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "gray"}) {
    const Result pipe =
        sh(std::string("ffmpeg -v error -f lavfi -i testsrc2=size=22x14:rate=8 -frames:v 5 -pix_fmt ") + format +
           " -f yuv4mpegpipe - | tee in.y4m | "
           "kineograph run --model identity --input - --output - --patch 4 --num-frames 2 | "
           "tee out.y4m | ffmpeg -v error -i - -f rawvideo -y out.raw");
    ASSERT_EQ(pipe.code, 0) << format << pipe.err;
    EXPECT_TRUE(content(folder_ / "in.y4m") == content(folder_ / "out.y4m")) << format;
    EXPECT_EQ(fs::file_size(folder_ / "out.raw") % 5, 0u);
    EXPECT_GT(fs::file_size(folder_ / "out.raw"), 5u * 22 * 14 - 1);
  }
}

TEST_F(ProgramTest, VideoBecomesTensorsAndBack) {
  make_video_and_identity(5);
  const Result result =
      sh("kineograph run --model identity --input clip.y4m --patch 4 --num-frames 2 --output s.safetensors &&"
         "kineograph run --model identity --input clip.y4m --patch 4 --output s.npy &&"
         "kineograph run --model identity --input s.npy --patch 4 --num-frames 5 --output s.y4m");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(load("s.safetensors", "sample").shape(), Shape({5, 48, 3, 5}));
  EXPECT_EQ(content(folder_ / "s.y4m").substr(0, 42), "YUV4MPEG2 W20 H12 F25:1 Ip A1:1 C444\nFRAME");
}

TEST_F(ProgramTest, RefusesVideoOfTheWrongPatch) {
  make_video_and_identity(1);
  const Result result = sh("kineograph run --model identity --input clip.y4m --output s.y4m");
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("--patch 8, which makes 192 channels"), std::string::npos) << result.err;
}

TEST_F(ProgramTest, ExitsWith1OnBadInput) {
  make_clip_and_model();
  std::ofstream(folder_ / "text.npy") << "not an array";
  std::ofstream(folder_ / "text.y4m") << "not a video";
  std::ofstream(folder_ / "text.safetensors") << "not tensors";
  save_safetensors(folder_ / "misnamed.safetensors", {{"hidden_state", noise({6, 8, 3, 2})}});
  const std::string good = content(folder_ / "clip.safetensors");
  std::ofstream(folder_ / "cut.safetensors", std::ios::binary) << good.substr(0, good.size() - 1);
  fs::create_directory(folder_ / "folder.npy");
  for (const char* input : {"missing.npy", "missing.safetensors", "text.npy", "text.y4m", "text.safetensors",
                            "misnamed.safetensors", "cut.safetensors", "folder.npy", "-"}) {
    const Result result = sh(std::string("kineograph run --model module --output s.npy --input ") + input);
    EXPECT_EQ(result.code, 1) << input;
    EXPECT_EQ(result.out, "") << input;
    EXPECT_NE(result.err.find("error: "), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(input == std::string("-") ? "stdin" : input), std::string::npos) << result.err;
  }
  EXPECT_EQ(sh("kineograph run --model missing --input clip.safetensors --output s.npy").code, 1);
  EXPECT_EQ(sh("kineograph run --model module --input clip.safetensors --num-frames 4 --output s.npy").code, 1);
  EXPECT_EQ(sh("kineograph inspect missing").code, 1);
  EXPECT_EQ(sh("kineograph inspect cut.safetensors").code, 1);
  EXPECT_FALSE(fs::exists(folder_ / "s.npy"));
}

TEST_F(ProgramTest, AFailureLeavesTheGoodOutput) {
  make_clip_and_model();
  make_video_and_identity(3);
  const std::string video = content(folder_ / "clip.y4m");
  std::ofstream(folder_ / "cut.y4m", std::ios::binary) << video.substr(0, video.size() - 1);
  for (const char* name : {"s.npy", "s.safetensors", "s.y4m"}) {
    std::ofstream(folder_ / name) << "good";
    // Fails in the last window, when others have been written.
    EXPECT_EQ(
        sh(std::string("kineograph run --model identity --patch 4 --num-frames 1 --input cut.y4m --output ") + name)
            .code,
        1);
    EXPECT_EQ(content(folder_ / name), "good") << name;
    // The disk fills: files may not grow beyond one block.
    const Result full = sh(
        std::string("trap '' XFSZ; ulimit -f 1; kineograph run --model identity --patch 4 --input clip.y4m --output ") +
        name);
    EXPECT_EQ(full.code, 1) << name << full.err;
    EXPECT_EQ(content(folder_ / name), "good") << name;
  }
  for (const auto& entry : fs::directory_iterator(folder_))
    EXPECT_NE(entry.path().filename().string()[0], '.') << "left behind: " << entry.path();
}

TEST_F(ProgramTest, AnInterruptionLeavesTheGoodOutput) {
  make_video_and_identity(3);
  std::ofstream(folder_ / "s.y4m") << "good";
  const Result result =
      sh("mkfifo pipe; (cat clip.y4m; exec sleep 60) >pipe & writer=$!\n" KINEOGRAPH_PROGRAM
         " run --model identity --patch 4 --num-frames 2 --input - --output s.y4m <pipe & program=$!\n"
         // The file is open without a name, or beside the good one.
         "for i in $(seq 200); do ls -l /proc/$program/fd | grep -qE '/(#[0-9]+|[.]s[.]y4m)' && echo writing && break; "
         "sleep 0.05; done\n"
         "kill -TERM $program; wait $program; code=$?; kill $writer; pkill -P $writer; exit $code");
  EXPECT_EQ(result.code, 128 + 15) << result.err;
  EXPECT_NE(result.out.find("writing"), std::string::npos) << "was not interrupted in the middle";
  EXPECT_EQ(content(folder_ / "s.y4m"), "good");
  EXPECT_EQ(sh("ls -A").out.find(".s.y4m"), std::string::npos);
}

// At every moment of a conversion, also while its files have names beside those they will take.
TEST_F(ProgramTest, AnInterruptedConversionIsWholeOrAbsent) {
  TransformerTemporalConfig config = small_config(64);
  config.attention_head_dim = 160;
  make_model("module", config);
  const Result result =
      sh("p='" KINEOGRAPH_PROGRAM
         "'; begin=$(date +%s%N); \"$p\" convert module whole; took=$(( $(date +%s%N) - begin ))\n"
         "for i in $(seq 40); do\n"
         "  ns=$(( took * i / 36 )); seconds=$(printf '%d.%09d' $(( ns / 1000000000 )) $(( ns % 1000000000 )))\n"
         "  timeout --foreground --preserve-status -s INT $seconds \"$p\" convert module made 2>/dev/null; code=$?\n"
         "  [ $code = 0 ] || [ $code = 130 ] || { echo \"ends with $code\"; exit 1; }\n"
         "  files=$(ls -A made 2>/dev/null | tr '\\n' ' ')\n"
         "  [ $code = 130 ] && [ -z \"$files\" ] && echo interrupted && continue\n"
         "  [ $code = 130 ] || echo ended\n"
         "  for file in $(ls -A whole); do cmp made/$file whole/$file || exit 1; done\n"
         "  [ \"$files\" = \"$(ls -A whole | tr '\\n' ' ')\" ] || { echo \"left behind: $files\"; exit 1; }\n"
         "  rm -rf made\n"
         "done");
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_NE(result.out.find("interrupted"), std::string::npos) << "no signal came in time";
}

TEST_F(ProgramTest, SaysThatNothingCanBeWritten) {
  make_clip_and_model();
  make_video_and_identity(2);
  ASSERT_EQ(sh("ln -s /dev/full full.y4m; ln -s /dev/full full.npy").code, 0);
  const std::string video = "kineograph run --model identity --patch 4 --input clip.y4m --output ";
  for (const char* output : {"full.y4m", "full.npy", "- >/dev/full", "missing/s.y4m", "missing/s.safetensors",
                             "/proc/s.npy", "/proc/s.safetensors"}) {
    const Result result = sh(video + output);
    EXPECT_EQ(result.code, 1) << output << result.err;
    EXPECT_NE(result.err.find("error: "), std::string::npos) << output << result.err;
  }
  EXPECT_EQ(sh("kineograph inspect module >/dev/full").code, 1);
}

}  // namespace
}  // namespace kineograph

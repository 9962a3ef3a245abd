// Wrong command lines and their exact messages.
#include <algorithm>

#include "program.h"

namespace kineograph {
namespace {

struct Case {
  const char* line;
  const char* message;
};

// Grouped by command, in the order of `kineograph --help`.
constexpr Case kCases[] = {
    {"restor", "restor: no such command; did you mean restore? See kineograph --help."},
    {"inspct module", "inspct: no such command; did you mean inspect? See kineograph --help."},
    {"Run", "Run: no such command; did you mean run? See kineograph --help."},
    {"frobnicate", "frobnicate: no such command. See kineograph --help."},
    {"--verison", "--verison: no such option; did you mean --version? See kineograph --help."},
    {"-v", "-v: no such option. See kineograph --help."},
    {"help trian", "trian: no such command; did you mean train? See kineograph --help."},
    {"''", ": no such command. See kineograph --help."},
    {"init", "--preset: expected it or --config, found neither. See kineograph init --help."},
    {"init --preset animatediff-v3-320", "--output: needed, and not given. See kineograph init --help."},
    {"init --preset animatediff-v3 -o x",
     "--preset: expected a name that --list-presets prints, found animatediff-v3; did you mean animatediff-v3-320? See "
     "kineograph init --help."},
    {"init --preset nonsense -o x",
     "--preset: expected a name that --list-presets prints, found nonsense. See kineograph init --help."},
    {"init --config c --preset p -o x",
     "--config and --preset: expected one of them, found both. See kineograph init --help."},
    {"init --preset modelscope-320 -o x --seed -1",
     "--seed: expected a whole number from 0, found -1. See kineograph init --help."},
    {"init --preset modelscope-320 -o x --seed 1.5",
     "--seed: expected a whole number from 0, found 1.5. See kineograph init --help."},
    {"init --preset modelscope-320 -o x --dtype f8",
     "--dtype: expected f32, f16 or bf16, found f8. See kineograph init --help."},
    {"init --preset modelscope-320 -o x y", "y: expected no further argument. See kineograph init --help."},
    {"init --preset modelscope-320 -o", "--output: expected a value, found none. See kineograph init --help."},
    {"init --preset modelscope-320 --ouput x",
     "--ouput: no such option; did you mean --output? See kineograph init --help."},
    {"init --preset modelscope-320 --preset modelscope-640 -o x",
     "--preset: expected once, found more often. See kineograph init --help."},
    {"inspect", "PATH: needed, and not given. See kineograph inspect --help."},
    {"inspect module other", "other: expected no further argument. See kineograph inspect --help."},
    {"inspect module --tensor", "--tensor: no such option; did you mean --tensors? See kineograph inspect --help."},
    {"inspect --jsno module", "--jsno: no such option; did you mean --json? See kineograph inspect --help."},
    {"inspect module --variant", "--variant: expected a value, found none. See kineograph inspect --help."},
    {"convert", "IN: needed, and not given. See kineograph convert --help."},
    {"convert module", "OUT: needed, and not given. See kineograph convert --help."},
    {"convert module out more", "more: expected no further argument. See kineograph convert --help."},
    {"convert module out --to diffusers",
     "--to: expected auto, module, motion-adapter or animatediff, found diffusers. See kineograph convert --help."},
    {"convert module out.safetensors",
     "OUT: expected a folder's name, for the layout TransformerTemporalModel, found out.safetensors. See kineograph "
     "convert --help."},
    {"convert module out --to animatediff",
     "OUT: expected a file's name that ends in .safetensors, for the layout AnimateDiff, found out. See kineograph "
     "convert --help."},
    {"convert module out --to motion-adapter --module m",
     "--module: expected --to module with it, found --to motion-adapter. See kineograph convert --help."},
    {"convert module out --dtype f64",
     "--dtype: expected auto, f32, f16 or bf16, found f64. See kineograph convert --help."},
    {"convert module out --lora a.ckpt:strong",
     "--lora: expected FILE or FILE:SCALE with a number for SCALE, found a.ckpt:strong. See kineograph convert "
     "--help."},
    {"convert module out --lora a.ckpt:nan",
     "--lora: expected FILE or FILE:SCALE with a number for SCALE, found a.ckpt:nan. See kineograph convert --help."},
    {"convert module out --extend-positions 0",
     "--extend-positions: expected a whole number from 1 to 1048576, and :interpolate behind it or nothing, found 0. "
     "See kineograph convert --help."},
    {"run --model module --input in.npy --output out.npy --extend-positions 64:cubic",
     "--extend-positions: expected a whole number from 1 to 1048576, and :interpolate behind it or nothing, found "
     "64:cubic. See kineograph run --help."},
    {"convert module out --extend-positions many",
     "--extend-positions: expected a whole number from 1 to 1048576, and :interpolate behind it or nothing, found "
     "many. See kineograph convert --help."},
    {"run", "--model: needed, and not given. See kineograph run --help."},
    {"run -m module", "--input: needed, and not given. See kineograph run --help."},
    {"run -m module -i clip.safetensors", "--output: needed, and not given. See kineograph run --help."},
    {"run --modle module -i clip.safetensors -o o.npy",
     "--modle: no such option; did you mean --model? See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --nonsense", "--nonsense: no such option. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --num_frames 3",
     "--num_frames: no such option; did you mean --num-frames? See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --num-frames=",
     "--num-frames: expected a value, found none. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --num-frames 0",
     "--num-frames: expected a whole number from 1, found 0. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --num-frames two",
     "--num-frames: expected a whole number from 1, found two. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --num-frames 99999999999999999999",
     "--num-frames: expected a whole number from 1, found 99999999999999999999. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --patch 65",
     "--patch: expected a whole number from 1 to 64, found 65. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --engine gpu",
     "--engine: expected auto, cpu or reference, found gpu. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --dtype f8",
     "--dtype: expected auto, f32 or bf16, found f8. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --threads -1",
     "--threads: expected a whole number from 0 to 65536, found -1. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --threads 70000",
     "--threads: expected a whole number from 0 to 65536, found 70000. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --threads 1 --threads 2",
     "--threads: expected once, found more often. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --group-norm-scope pixel",
     "--group-norm-scope: expected clip or frame, found pixel. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --timestep soon",
     "--timestep: expected a number from -1e+12 to 1e+12, found soon. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --timestep nan",
     "--timestep: expected a number from -1e+12 to 1e+12, found nan. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --class-labels 1,-1",
     "--class-labels: expected a whole number from 0, found -1. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o.npy --encoder-hidden-states text.txt",
     "--encoder-hidden-states: expected .safetensors or .npy, found text.txt. See kineograph run --help."},
    {"run -m module -i clip.avi -o o.npy",
     "--input: expected .safetensors, .npy, .y4m or - (a pipe of .y4m), found clip.avi. See kineograph run --help."},
    {"run -m module -i clip.safetensors -o o",
     "--output: expected .safetensors, .npy, .y4m or - (a pipe of .y4m), found o. See kineograph run --help."},
    {"restore --strenght 20", "--strenght: no such option; did you mean --strength? See kineograph restore --help."},
    {"restore --strength strong -i clip.y4m -o o.y4m",
     "--strength: expected auto or a deviation from 0 to 255, found strong. See kineograph restore --help."},
    {"restore --strength 256 -i clip.y4m -o o.y4m",
     "--strength: expected auto or a deviation from 0 to 255, found 256. See kineograph restore --help."},
    {"restore --damage scratches",
     "--damage: expected auto, noise, flicker or both, found scratches. See kineograph restore --help."},
    {"restore --window 0", "--window: expected a whole number from 1, found 0. See kineograph restore --help."},
    {"restore --shifts 3", "--shifts: expected 1, 2, 4, 8 or 16, found 3. See kineograph restore --help."},
    {"restore -i clip.y4m -o o.avi",
     "--output: expected .y4m, .mp4, .m4v, .mov, .mkv, .webm or - (a pipe of .y4m), found o.avi. See kineograph "
     "restore --help."},
    {"restore clip.y4m clip.y4m",
     "--output: expected another file than the input, found clip.y4m. See kineograph restore --help."},
    {"restore clip.y4m o.y4m more", "more: expected no further argument. See kineograph restore --help."},
    {"restore clip.y4m o.y4m --start -1",
     "--start: expected a whole number from 0, found -1. See kineograph restore --help."},
    {"restore clip.y4m o.y4m --frames 0",
     "--frames: expected a whole number from 1, found 0. See kineograph restore --help."},
    {"convert module out --adapter", "--adapter: expected a value, found none. See kineograph convert --help."},
    {"inspect module --select", "--select: expected a value, found none. See kineograph inspect --help."},
    {"train", "--output: needed, and not given. See kineograph train --help."},
    {"train -o t", "--clips: needed, and not given. See kineograph train --help."},
    {"train -o t --clips drawn", "--config: expected it or --init, found neither. See kineograph train --help."},
    {"train -o t --clips drawn --config c --init i",
     "--config and --init: expected one of them, found both. See kineograph train --help."},
    {"train -o t --clips drawn --config c --steps 0",
     "--steps: expected a whole number from 1 to 1000000000000, found 0. See kineograph train --help."},
    {"train -o t --clips drawn --config c --learning-rate 2",
     "--learning-rate: expected a number from 0 to 1, found 2. See kineograph train --help."},
    {"train -o t --clips drawn --config c --learning-rate fast",
     "--learning-rate: expected a number from 0 to 1, found fast. See kineograph train --help."},
    {"train -o t --clips drawn --config c --checkpoint-every 0",
     "--checkpoint-every: expected a whole number from 1, found 0. See kineograph train --help."},
    {"train -o t --clips drawn --config c --dtype f16",
     "--dtype: expected f32 or bf16, found f16. See kineograph train --help."},
    {"train -o t --clips drawn --config c --epochs 3", "--epochs: no such option. See kineograph train --help."},
    {"bench --shape AD-9",
     "--shape: expected one of AD-0 AD-1 AD-2 AD-3 XL-0 MS-in MS-0 ZS-in ZS-0 ZS-1 ZS-2 ZS-mid I2V-0 GRID AD-0s AD-1s "
     "AD-2s small SD-0 SD-1 SD-2 SD-3 SD-0s SVD-0 SVD-1 SVD-2 SVD-0s BxFxCxHxW:headsxdim or PRESET@BxFxHxW:tokens, "
     "found AD-9. See kineograph bench --help."},
    {"bench --repeats 0", "--repeats: expected a whole number from 1 to 1000, found 0. See kineograph bench --help."},
    {"bench --repeat 3", "--repeat: no such option; did you mean --repeats? See kineograph bench --help."},
    {"bench small", "small: expected no further argument. See kineograph bench --help."},
};

class UsageTest : public ProgramTest {};

TEST_F(UsageTest, WrongCommandLinesAreExplained) {
  make_clip_and_model();
  make_video_and_identity(1);
  const auto files = [&] { return sh("ls -A | grep -v -x -e script -e out -e err").out; };
  const std::string before = files();
  for (const Case& wrong : kCases) {
    const Result result = sh(std::string("kineograph ") + wrong.line);
    EXPECT_EQ(result.code, 2) << wrong.line;
    EXPECT_EQ(result.out, "") << wrong.line;
    EXPECT_EQ(result.err, std::string("kineograph: error: ") + wrong.message + "\n") << wrong.line;
  }
  EXPECT_EQ(files(), before) << "a wrong command line wrote something";
}

TEST_F(UsageTest, AnEngineThatIsNotHereIsRefusedWithItsReason) {
  const std::vector<std::string> here = engines();
  if (std::find(here.begin(), here.end(), "cuda") != here.end()) GTEST_SKIP() << "engine cuda is here";
  const Result result = sh("kineograph run -m module -i clip.safetensors -o o.npy --engine cuda");
  EXPECT_EQ(result.code, 2);
  const std::string message =
      "kineograph: error: --engine: expected auto, cpu or reference, found cuda. There is no engine cuda here: ";
  EXPECT_EQ(result.err.substr(0, message.size()), message);
  EXPECT_TRUE(result.err.ends_with(". See kineograph run --help.\n")) << result.err;
  EXPECT_EQ(result.err.find(".."), std::string::npos) << result.err;
}
TEST_F(UsageTest, HelpIsGivenWhereItIsAskedFor) {
  const Result help = sh("kineograph --help");
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  for (const char* same : {"kineograph", "kineograph help", "kineograph -h"}) {
    const Result result = sh(same);
    EXPECT_EQ(result.code, 0) << same;
    EXPECT_EQ(result.out, help.out) << same;
  }
  for (const char* command : {"init", "inspect", "convert", "run", "restore", "train", "bench"}) {
    const Result result = sh(std::string("kineograph help ") + command);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, sh(std::string("kineograph ") + command + " --help").out);
    EXPECT_NE(result.out.find("Example"), std::string::npos) << result.out;
    EXPECT_NE(help.out.find(command), std::string::npos);
    // Ranges are said in words, in messages only: no bound of an integer type is printed.
    EXPECT_EQ(result.out.find("9223372036854775807"), std::string::npos) << result.out;
  }
}

TEST_F(UsageTest, MissingFilesAreCalledMissing) {
  make_clip_and_model();
  for (const auto& [line, message] : {std::pair{"run -m module -i x.npy -o o.npy", "x.npy: no such file or folder"},
                                      {"run -m module -i x.y4m -o o.y4m", "x.y4m: no such file or folder"},
                                      {"run -m module -i clip.safetensors -o missing/o.npy --num-frames 3",
                                       "missing/o.npy: no such file or folder. Nothing was changed."},
                                      {"run -m x -i clip.safetensors -o o.npy", "x: no such file or folder"},
                                      {"restore -m x -i clip.y4m -o o.y4m", "x: no such file or folder"},
                                      {"restore -m module -i x.y4m -o o.y4m", "x.y4m: no such file or folder"}}) {
    const Result result = sh(std::string("kineograph ") + line);
    EXPECT_EQ(result.code, 1) << line;
    EXPECT_EQ(result.err, std::string("kineograph: error: ") + message + "\n") << line;
  }
}

TEST_F(UsageTest, ManyRowsWithoutNumFramesAreWarnedOf) {
  make_clip_and_model();
  const std::string run = "kineograph run -m module -i clip.safetensors -o o.npy ";
  const Result silent = sh(run + "--num-frames 3");
  ASSERT_EQ(silent.code, 0) << silent.err;
  EXPECT_EQ(silent.err.find("warning"), std::string::npos) << silent.err;
  const Result warned = sh(run);
  ASSERT_EQ(warned.code, 0) << warned.err;
  EXPECT_NE(
      warned.err.find("kineograph: warning: without --num-frames the 6 rows of clip.safetensors are videos of one "
                      "frame each; --num-frames 6 takes them for one clip\n"),
      std::string::npos)
      << warned.err;
}

/// The lines that the bar drew on a terminal of `columns` columns, in turn, and the text behind the last.
std::pair<std::vector<std::string>, std::string> drawn(const std::string& terminal) {
  std::vector<std::string> lines;
  constexpr std::string_view kClear = "\r\x1b[K";
  std::size_t at = terminal.find(kClear);
  std::string rest;
  while (at != std::string::npos) {
    const std::size_t from = at + kClear.size();
    at = terminal.find(kClear, from);
    (at == std::string::npos ? rest : lines.emplace_back()) = terminal.substr(from, at - from);
  }
  return {lines, rest};
}

TEST_F(UsageTest, BarsFitTheTerminalAndEndInOneLine) {
  if (sh("command -v script").code != 0) GTEST_SKIP() << "no script(1)";
  make_video_and_identity(40);
  const std::string run = "run -m identity --patch 4 --num-frames 1 -i clip.y4m -o o.y4m";
  for (const int columns : {120, 40, 12}) {
    const Result result = sh("TERM=xterm script -qec \"stty cols " + std::to_string(columns) +
                             "; '" KINEOGRAPH_PROGRAM "' " + run + "\" /dev/null");
    ASSERT_EQ(result.code, 0) << result.out << result.err;
    const auto [lines, rest] = drawn(result.out);
    ASSERT_FALSE(lines.empty()) << result.out;
    for (const std::string& line : lines) {
      EXPECT_LT(line.size(), static_cast<std::size_t>(columns)) << line;
      EXPECT_EQ(line.find_first_of("\r\n\x1b"), std::string::npos) << "colours or line ends: " << line;
    }
    if (columns == 120) {
      EXPECT_TRUE(lines.front().starts_with("[") && lines.front().find("] 0/40 frames") != std::string::npos)
          << lines.front();
      EXPECT_NE(lines.back().find("] 40/40 frames, "), std::string::npos) << lines.back();
      EXPECT_NE(lines.back().find("/s"), std::string::npos) << lines.back();
    }
    // The bar is gone; one sentence is left, in one line.
    EXPECT_TRUE(rest.starts_with("kineograph: 40 frames in ")) << rest;
    EXPECT_EQ(rest.find('\n'), rest.size() - 1) << rest;
  }
  const Result dumb = sh("TERM=dumb script -qec \"'" KINEOGRAPH_PROGRAM "' " + run + "\" /dev/null");
  EXPECT_EQ(dumb.out.find('\x1b'), std::string::npos) << dumb.out;
  EXPECT_EQ(sh("kineograph " + run).err.find('\r'), std::string::npos) << "no bar in a file";
}

}  // namespace
}  // namespace kineograph

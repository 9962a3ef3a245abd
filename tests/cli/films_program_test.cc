// A film over many machines: planned, restored in segments by whoever is there, joined.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "program.h"

namespace kineograph {
namespace {

constexpr int kFrames = 300;

class FilmsProgramTest : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    TransformerTemporalConfig config = small_config(48);
    config.norm_type = NormType::ada_norm_zero;
    config.num_embeds_ada_norm = 3;
    config.private_keys = {{"_prediction_type", "\"epsilon\""}};
    TransformerTemporalModel::from_config(config, 1).save_pretrained(folder_ / "models/restore");
    make_film("film.y4m", 3);
    ASSERT_EQ(
        sh("export KINEOGRAPH_MODELS=$PWD/models; kineograph restore film.y4m whole.y4m --window 8 --shifts 2").code,
        0);
    ASSERT_FALSE(content(folder_ / "whole.y4m") == content(folder_ / "film.y4m"));
  }

  // Scenes of 1 to 60 frames, most of them noisy.
  void make_film(const std::string& name, unsigned seed) const {
    std::ofstream video(folder_ / name, std::ios::binary);
    video << "YUV4MPEG2 W48 H40 F8:1 Ip A1:1 Cmono XCOLORRANGE=FULL\n";
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0, 1);
    for (int f = 0, scene = 0; f < kFrames; ++f) {
      if (f == 20 || f == 21 || f == 80 || f == 140 || f == 150) ++scene;
      video << "FRAME\n";
      for (int y = 0; y < 40; ++y)
        for (int x = 0; x < 48; ++x) {
          const double wave = std::sin((x + 0.2 * f) * (0.2 + 0.1 * scene) + (scene % 2 == 0 ? 0.3 : -0.4) * y);
          const double value = 120 + 60 * wave + (scene == 3 ? 0 : 12 * normal(random));
          video.put(static_cast<char>(std::lround(std::clamp(value, 0.0, 255.0))));
        }
    }
  }

  Result film(const std::string& script) const { return sh("export KINEOGRAPH_MODELS=$PWD/models; " + script); }
  Result plan() const {
    return film(
        "mkdir -p parts; kineograph restore film.y4m --plan parts/plan.json --window 8 --shifts 2 --segment-frames 5");
  }
  static int lines(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }
};

TEST_F(FilmsProgramTest, JoinedIsTheFilmOfOneProcess) {
  const Result planned = plan();
  ASSERT_EQ(planned.code, 0) << planned.err;
  EXPECT_NE(planned.err.find(", 4 scenes, "), std::string::npos) << planned.err;
  const Result missing = film("kineograph restore --plan parts/plan.json --list");
  EXPECT_GE(lines(missing.out), 50) << missing.out;
  // In any order; twice does no harm.
  const Result made = film(
      "for n in $(kineograph restore --plan parts/plan.json --list | sort -R) 3; do kineograph restore film.y4m parts "
      "--plan parts/plan.json --segment $n || exit 1; done");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.err.find("is there"), std::string::npos) << made.err;
  EXPECT_EQ(film("kineograph restore --plan parts/plan.json --join parts --list").out, "");
  const Result joined = film("kineograph restore film.y4m joined.y4m --plan parts/plan.json --join parts");
  ASSERT_EQ(joined.code, 0) << joined.err;
  EXPECT_TRUE(content(folder_ / "joined.y4m") == content(folder_ / "whole.y4m"));
}

TEST_F(FilmsProgramTest, AVideoFileIsJoinedAsOneProcessEncodesIt) {
  if (sh("command -v ffmpeg ffprobe").code != 0) GTEST_SKIP() << "no ffmpeg";
  const Result made = film(
      "ffmpeg -v error -i film.y4m -f lavfi -i sine=duration=20 -c:v libx264 -crf 1 -pix_fmt yuv420p -c:a aac film.mp4 "
      "&& "
      "kineograph restore film.mp4 one.mp4 --window 8 --shifts 1 --threads 1 && "
      "kineograph restore film.mp4 --plan plan.json --window 8 --shifts 1 --segment-frames 70 && "
      "for n in $(kineograph restore --plan plan.json --list); do kineograph restore film.mp4 parts --plan plan.json "
      "--segment $n || exit 1; done; kineograph restore film.mp4 two.mp4 --plan plan.json --join parts");
  ASSERT_EQ(made.code, 0) << made.err;
  const std::string hash = "ffmpeg -v error -i ";
  EXPECT_EQ(sh(hash + "one.mp4 -c copy -f md5 -").out, sh(hash + "two.mp4 -c copy -f md5 -").out);
  EXPECT_EQ(sh("ffprobe -v error -show_entries stream=codec_name -of csv=p=0 two.mp4").out, "h264\naac\n");
}

TEST_F(FilmsProgramTest, AnotherFilmOrModelIsAnError) {
  ASSERT_EQ(plan().code, 0);
  make_film("other.y4m", 4);
  const Result other = film("kineograph restore other.y4m parts --plan parts/plan.json --segment 9");
  EXPECT_EQ(other.code, 1);
  EXPECT_NE(other.err.find("other.y4m: expected the film that"), std::string::npos) << other.err;
  // The same at the segment's first frame, another one later.
  std::string changed = content(folder_ / "film.y4m");
  const nlohmann::json json = nlohmann::json::parse(content(folder_ / "parts/plan.json"));
  const auto first = json["segments"][9]["first"].get<std::size_t>();
  changed[changed.find('\n') + 1 + (first + 1) * (6 + 48 * 40) + 60] ^= 1;
  std::ofstream(folder_ / "other.y4m", std::ios::binary) << changed;
  EXPECT_EQ(film("kineograph restore other.y4m parts --plan parts/plan.json --segment 9").code, 1);
  TransformerTemporalConfig config = small_config(48);
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 3;
  TransformerTemporalModel::from_config(config, 2).save_pretrained(folder_ / "other/restore");
  const Result model =
      film("kineograph restore film.y4m parts --plan parts/plan.json --segment 9 --model other/restore");
  EXPECT_EQ(model.code, 1);
  EXPECT_NE(model.err.find("the model that it was made with"), std::string::npos) << model.err;
  EXPECT_EQ(sh("ls parts | grep -c segment").out, "0\n");
  const Result beyond = film("kineograph restore film.y4m parts --plan parts/plan.json --segment 999");
  EXPECT_EQ(beyond.code, 1);
  const Result missing = film("kineograph restore film.y4m joined.y4m --plan parts/plan.json --join parts");
  EXPECT_EQ(missing.code, 1);
  EXPECT_NE(missing.err.find(" 0 1 2 3 "), std::string::npos) << missing.err;
  EXPECT_FALSE(fs::exists(folder_ / "joined.y4m"));
  std::ofstream(folder_ / "plan.json") << "{\"kineograph_plan\": 1}";
  EXPECT_EQ(film("kineograph restore --plan plan.json --list").code, 1);
  EXPECT_EQ(film("kineograph restore --plan missing.json --list").code, 1);
}

// Three hosts, whose ssh is a stand-in: one fails every job; and the first worker is killed in the middle of one. No
// SHELL is set, as in a job of a scheduler or of a container.
TEST_F(FilmsProgramTest, GnuParallelMakesItInSpiteOfHostsThatFail) {
  if (sh("command -v parallel && parallel --version | grep -q GNU").code != 0) GTEST_SKIP() << "no GNU parallel";
  fs::create_symlink(KINEOGRAPH_SOURCE_DIR "/examples", folder_ / "examples");
  ASSERT_EQ(plan().code, 0);
  std::ofstream(folder_ / "ssh") << "#!/bin/bash\n"
                                    "while [[ $1 == -* ]]; do shift; done\n"
                                    "host=$1; shift\n"
                                    "[ \"$1\" = -- ] && shift\n"
                                    "[ $host = bad ] && exit 255\n"
                                    "exec bash -c \"$*\"\n";
  // The program, but that the first one that takes a lock dies as if memory had run out.
  std::ofstream(folder_ / "kineograph") << "#!/bin/bash\n"
                                           "case \"$*\" in *--segment*) mkdir '"
                                        << folder_.string() << "/killed' 2>/dev/null && kill -9 $$ ;; esac\n"
                                        << "exec '" KINEOGRAPH_PROGRAM "' \"$@\"\n";
  const std::string script =
      "chmod +x ssh kineograph; export PATH=$PWD:$PATH PARALLEL_SSH=$PWD/ssh; unset -f kineograph; unset SHELL; "
      "examples/films/parallel.sh film.y4m joined.y4m parts 1/first,1/bad,1/second";
  const Result made = film(script);
  ASSERT_EQ(made.code, 0) << made.err << content(folder_ / "parts/joblog");
  EXPECT_TRUE(fs::exists(folder_ / "killed"));
  EXPECT_TRUE(content(folder_ / "joined.y4m") == content(folder_ / "whole.y4m"));
  const std::string log = content(folder_ / "parts/joblog");
  EXPECT_NE(log.find("first"), std::string::npos) << log;
  EXPECT_NE(log.find("second"), std::string::npos) << log;
  // Once more makes only what is missing.
  ASSERT_EQ(sh("rm parts/segment-0000[37]*").code, 0);
  ASSERT_EQ(film(script).code, 0);
  EXPECT_EQ(lines(content(folder_ / "parts/joblog")), 1 + 2) << content(folder_ / "parts/joblog");
  EXPECT_TRUE(content(folder_ / "joined.y4m") == content(folder_ / "whole.y4m"));
}

TEST_F(FilmsProgramTest, TheScriptForSlurmIsOne) {
  fs::create_symlink(KINEOGRAPH_SOURCE_DIR "/examples", folder_ / "examples");
  ASSERT_EQ(plan().code, 0);
  ASSERT_EQ(sh("bash -n examples/films/slurm.sh").code, 0);
  // A stand-in that runs an array's jobs, and says what it was asked for.
  std::ofstream(folder_ / "sbatch")
      << "#!/bin/bash\n"
         "for a; do case $a in --array=*) array=${a#*=} ;; --wrap=*) job=${a#*=} ;; esac; done\n"
         "printf '%s\\n' \"$*\" >>asked\n"
         "for n in ${array//,/ }; do SLURM_ARRAY_TASK_ID=$n bash -c \"$job\" >&2 || exit 1; done\n"
         "[ -n \"$array\" ] || bash -c \"$job\" >&2\n"
         "echo 17\n";
  const Result made = film(
      "chmod +x sbatch; mkdir bin; ln -s '" KINEOGRAPH_PROGRAM
      "' bin/kineograph; export PATH=$PWD:$PWD/bin:$PATH; examples/films/slurm.sh film.y4m joined.y4m parts --mem=1G");
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_TRUE(content(folder_ / "joined.y4m") == content(folder_ / "whole.y4m"));
  EXPECT_NE(content(folder_ / "asked").find("--dependency=afterany:17"), std::string::npos);
}

}  // namespace
}  // namespace kineograph

// save_pretrained when the disk is full, or the process is killed: the model that was there stays.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "folder.h"
#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

TransformerTemporalConfig config_of_width(std::int64_t width) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 4;
  config.attention_head_dim = width / 4;
  config.in_channels = width;
  config.norm_num_groups = 4;
  return config;
}

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Save : public FolderTest {
 protected:
  Save() {
    TransformerTemporalModel::from_config(config_of_width(16), 1).save_pretrained(folder_);
    config_ = contents(folder_ / "config.json");
    weights_ = contents(folder_ / "diffusion_pytorch_model.safetensors");
  }

  void expect_the_old_model() const {
    EXPECT_EQ(contents(folder_ / "config.json"), config_);
    EXPECT_EQ(contents(folder_ / "diffusion_pytorch_model.safetensors"), weights_);
    EXPECT_EQ(TransformerTemporalModel::from_pretrained(folder_).config().inner_dim(), 16);
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  std::string config_, weights_;
};

// A limit on the size of files stands for a full disk: write(2) fails in the middle of the weights.
TEST_F(Save, AFullDiskLeavesTheOldModel) {
  const auto larger = TransformerTemporalModel::from_config(config_of_width(64), 2);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      larger.save_pretrained(folder_);
    } catch (const IoError& error) {
      const bool named = std::strstr(error.what(), "diffusion_pytorch_model.safetensors") != nullptr;
      ::_exit(named ? 7 : 8);
    }
    ::_exit(9);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  expect_the_old_model();
  EXPECT_EQ(files(), 2u) << "a temporary file was left";
}

/// Whether a process has a file of the folder open, named or not.
bool writes_into(pid_t process, const std::filesystem::path& folder) {
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/fd", gone))
    if (std::filesystem::read_symlink(entry.path(), gone).string().starts_with(folder.string())) return true;
  return false;
}

TEST_F(Save, AConversionThatIsCancelledAtAnyCheckLeavesTheOldModel) {
  const fs::path larger = folder_ / "larger";
  TransformerTemporalModel::from_config(config_of_width(64), 2).save_pretrained(larger);
  const Checkpoint checkpoint = Checkpoint::open(larger);
  const std::size_t before = files();
  std::vector<std::pair<std::size_t, std::size_t>> told;
  std::size_t most = 0;
  const ConvertOptions options = {.to = Layout::module, .on_progress = [&](std::size_t done, std::size_t total) {
                                    told.emplace_back(done, total);
                                    return told.size() <= most;
                                  }};
  std::size_t cancelled = 0;
  for (bool ended = true; ended; ++most) {
    told.clear();
    ended = false;
    try {
      convert(checkpoint, folder_, options);
    } catch (const Cancelled& error) {
      ended = true;
      ++cancelled;
      EXPECT_STREQ(error.what(), "cancelled by on_progress: nothing was written");
      ASSERT_NO_FATAL_FAILURE(expect_the_old_model()) << "at check " << most;
      ASSERT_EQ(files(), before) << "something was left behind at check " << most;
    }
  }
  EXPECT_EQ(cancelled, checkpoint.tensors().size() + 1) << "once before the first tensor, once after each";
  EXPECT_EQ(told.front().first, 0u);
  EXPECT_EQ(told.back().first, told.back().second);
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  EXPECT_EQ(contents(folder_ / kWeights), contents(larger / kWeights));
}

TEST_F(Save, KilledInTheMiddleLeavesOneWholeModel) {
  const auto larger = TransformerTemporalModel::from_config(config_of_width(512), 2);
  bool interrupted = false;
  for (int delay = 200; delay <= 51'200 && !interrupted; delay *= 2) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      larger.save_pretrained(folder_);
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(delay));
    ::kill(child, SIGSTOP);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, WUNTRACED), child);
    if (!WIFSTOPPED(status)) break;  // it was faster
    interrupted = writes_into(child, folder_);
    ::kill(child, SIGKILL);
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (!interrupted) continue;
    ASSERT_NO_FATAL_FAILURE(expect_the_old_model());
    EXPECT_EQ(files(), 2u) << "something was left behind";
  }
  EXPECT_TRUE(interrupted) << "no delay met the process while it wrote";
}

/// Kills a process that does nothing but save, at random moments. KINEOGRAPH_TORTURE_SECONDS: for how long.
TEST_F(Save, TortureKilledAtRandomMoments) {
  const char* const text = std::getenv("KINEOGRAPH_TORTURE_SECONDS");
  const std::chrono::duration<double> budget(text != nullptr ? std::atof(text) : 3.0);
  const auto small = TransformerTemporalModel::from_config(config_of_width(16), 1);
  const auto large = TransformerTemporalModel::from_config(config_of_width(64), 2);
  large.save_pretrained(folder_ / "large");
  const std::string weights[] = {weights_, contents(folder_ / "large" / kWeights)};
  const std::string configs[] = {config_, contents(folder_ / "large" / "config.json")};
  std::mt19937 random(20);
  int kills = 0, mixed = 0;
  for (const auto start = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - start < budget;
       ++kills) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0)
      for (;;) {
        large.save_pretrained(folder_);
        small.save_pretrained(folder_);
      }
    ::usleep(random() % 30'000);
    ::kill(child, SIGKILL);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    const std::string w = contents(folder_ / kWeights), c = contents(folder_ / "config.json");
    ASSERT_TRUE(w == weights[0] || w == weights[1]) << "weights that are neither, after " << kills << " kills";
    ASSERT_TRUE(c == configs[0] || c == configs[1]) << "a configuration that is neither, after " << kills << " kills";
    mixed += (w == weights[1]) != (c == configs[1]) ? 1 : 0;
  }
  // Between two renames lie microseconds; a way through a half-written state would be met every few kills.
  EXPECT_LE(mixed, 1 + kills / 20) << "of " << kills;
  small.save_pretrained(folder_);
  EXPECT_EQ(files(), 3u) << "temporary files stayed";
  RecordProperty("kills", kills);
}

TEST_F(Save, AFolderThatCannotBeMadeIsAnError) {
  const auto model = TransformerTemporalModel::from_config(config_of_width(16), 1);
  try {
    model.save_pretrained(folder_ / "config.json" / "below");
    FAIL() << "saved below a file";
  } catch (const IoError& error) {
    EXPECT_NE(std::strstr(error.what(), "below"), nullptr) << error.what();
  }
  expect_the_old_model();
}

}  // namespace
}  // namespace kineograph

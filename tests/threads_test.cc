// How many threads a call gets, and what becomes of them in a forked child.
#include "base/threads.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/cores.h"
#include "folder.h"
#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

/// A hierarchy of control groups in a folder of its own.
class Groups : public FolderTest {
 protected:
  void put(const std::string& file, const std::string& text) const {
    fs::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file) << text << "\n";
  }
};

TEST_F(Groups, OfVersion2) {
  EXPECT_EQ(quota_cores("0::/a/b\n", folder_), std::nullopt);
  put("a/b/cpu.max", "max 100000");
  EXPECT_EQ(quota_cores("0::/a/b\n", folder_), std::nullopt);
  put("a/cpu.max", "250000 100000");
  EXPECT_EQ(quota_cores("0::/a/b\n", folder_), 3) << "the group above pays";
  put("a/b/cpu.max", "150000 100000");
  EXPECT_EQ(quota_cores("0::/a/b\n", folder_), 2);
  put("a/b/cpu.max", "1000 100000");
  EXPECT_EQ(quota_cores("0::/a/b\n", folder_), 1);
  put("cpu.max", "400000 100000");
  EXPECT_EQ(quota_cores("0::/named/outside\n", folder_), 4) << "a container sees its own group as the root";
}

TEST_F(Groups, OfVersion1) {
  const std::string groups = "5:memory:/a\n4:cpu,cpuacct:/a\n1:cpuset:/\n";
  put("cpu,cpuacct/a/cpu.cfs_quota_us", "-1");
  put("cpu,cpuacct/a/cpu.cfs_period_us", "100000");
  EXPECT_EQ(quota_cores(groups, folder_), std::nullopt);
  put("cpu,cpuacct/a/cpu.cfs_quota_us", "300000");
  EXPECT_EQ(quota_cores(groups, folder_), 3);
  put("memory/a/cpu.cfs_quota_us", "100000");
  put("memory/a/cpu.cfs_period_us", "100000");
  EXPECT_EQ(quota_cores(groups, folder_), 3) << "only the cpu controller counts";
}

TEST_F(Groups, NonsenseIsNoQuota) {
  put("a/cpu.max", "many of them");
  for (const char* text : {"", "\n", "x", "0:", "0::", "::", "0::/a\n0:::\n"})
    EXPECT_EQ(quota_cores(text, folder_), std::nullopt) << text;
}

/// body() in a process of its own; its exit code, or minus the signal that ended it.
template <class Body>
int in_child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a child that hangs fails
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(Threads, FollowTheScheduler) {
  EXPECT_EQ(in_child([] {
              cpu_set_t one;
              CPU_ZERO(&one);
              for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++core) {
                cpu_set_t all;
                sched_getaffinity(0, sizeof all, &all);
                if (CPU_ISSET(core, &all)) CPU_SET(core, &one);
              }
              sched_setaffinity(0, sizeof one, &one);
              return available_cores();
            }),
            1);
}

TEST(Threads, NumbersAreClampedAndNonsenseIsSaidOnce) {
  const int most = std::max(4, available_cores());
  EXPECT_EQ(thread_count(1), 1);
  EXPECT_EQ(thread_count(1 << 30), most);
  const char* const before = std::getenv("KINEOGRAPH_NUM_THREADS");
  const std::string kept = before == nullptr ? "" : before;
  setenv("KINEOGRAPH_NUM_THREADS", "1", 1);
  EXPECT_EQ(thread_count(0), 1);
  EXPECT_EQ(take_thread_setting_problem(), "");
  setenv("KINEOGRAPH_NUM_THREADS", "99999999999", 1);
  EXPECT_EQ(thread_count(0), most);
  EXPECT_EQ(take_thread_setting_problem(), "");
  for (const char* nonsense : {"", "0", "-3", "two", "3x", " 3", "1e3", "0x10"}) {
    setenv("KINEOGRAPH_NUM_THREADS", nonsense, 1);
    EXPECT_EQ(thread_count(0), available_cores()) << nonsense;
  }
  setenv("KINEOGRAPH_NUM_THREADS", "two\n", 1);
  EXPECT_EQ(take_thread_setting_problem(),
            "KINEOGRAPH_NUM_THREADS is two , which is no number of threads above 0: ignored");
  EXPECT_EQ(take_thread_setting_problem(), "");
  if (before == nullptr)
    unsetenv("KINEOGRAPH_NUM_THREADS");
  else
    setenv("KINEOGRAPH_NUM_THREADS", kept.c_str(), 1);
}

struct Small {
  Small() {
    TransformerTemporalConfig config;
    config.num_attention_heads = 2;
    config.attention_head_dim = 16;
    config.in_channels = 32;
    config.norm_num_groups = 8;
    model.emplace(TransformerTemporalModel::from_config(config, 1));
    for (std::int64_t i = 0; i < x.numel(); ++i) x.data_as<float>()[i] = static_cast<float>(i % 89) * 0.02f - 0.9f;
  }
  Tensor forward() const { return model->forward(x, {.num_frames = 8, .num_threads = 4}).sample; }
  Tensor backward() const {
    Tensor d_x(DType::f32, x.shape());
    Gradients wanted;
    wanted.hidden_states = d_x.mutable_view();
    model->backward(x, x, wanted, {.num_frames = 8, .num_threads = 4});
    return d_x;
  }
  std::optional<TransformerTemporalModel> model;
  Tensor x{DType::f32, {8, 32, 16, 16}};
};

TEST(Fork, AChildComputesAsItsParentDoes) {
  const Small small;
  const Tensor sample = small.forward(), gradient = small.backward();
  EXPECT_EQ(in_child([&] {
              const Small anew;  // packs, too
              const auto same = [](const Tensor& a, const Tensor& b) {
                return std::memcmp(a.data(), b.data(), a.bytes()) == 0;
              };
              return same(small.forward(), sample) && same(small.backward(), gradient) && same(anew.forward(), sample)
                         ? 0
                         : 1;
            }),
            0);
}

/// A thread of the parent is in a call, whose locks nobody in the child will ever open.
TEST(Fork, AChildOfABusyParentIsTold) {
  const Small small;
  const Tensor sample = small.forward();
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) small.forward();
  });
  int told = 0, ran = 0;
  for (int i = 0; i < 30; ++i) {
    const int code = in_child([&] {
      try {
        return std::memcmp(small.forward().data(), sample.data(), sample.bytes()) == 0 ? 0 : 1;
      } catch (const Error& error) {
        return std::strstr(error.what(), "spawn") != nullptr ? 7 : 8;
      }
    });
    ASSERT_TRUE(code == 0 || code == 7) << code;
    (code == 7 ? told : ran) += 1;
    std::this_thread::sleep_for(std::chrono::microseconds(i * 37));
  }
  stop = true;
  busy.join();
  EXPECT_GT(told, 0) << "no fork met a call: " << ran << " ran";
}

}  // namespace
}  // namespace kineograph

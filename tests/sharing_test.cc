// Models of the same file share their weights.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "calls.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;
using testing::same;
using testing::waves;

class Sharing : public ::testing::Test {
 protected:
  void SetUp() override {
    save(1);
    wait();
  }
  void TearDown() override { fs::remove_all(folder_); }

  void save(std::uint64_t seed) const {
    TransformerTemporalModel::from_config(testing::temporal_config(32, 2), seed).save_pretrained(folder_);
  }
  /// Until a file is old enough to be told by its times.
  static void wait() { std::this_thread::sleep_for(std::chrono::milliseconds(3100)); }
  TransformerTemporalModel open(const ModelOptions& options = {}) const {
    return TransformerTemporalModel::from_pretrained(folder_, options);
  }
  /// The address of a model's weights: one for models that share them.
  static const void* place(const TransformerTemporalModel& model) { return model.parameters().front().value.data(); }
  static Tensor sample(const TransformerTemporalModel& model) {
    return model.forward(waves({4, 32, 3, 3}), {.num_frames = 4}).sample;
  }

  void threads_get_one_model() const;
  void the_configuration_counts() const;

  fs::path folder_ = fs::temp_directory_path() / ("kineograph_sharing_" + std::to_string(::getpid()));
};

TEST_F(Sharing, ModelsOfOneFileAndTheSameOptionsAreOne) {
  const auto first = open();
  EXPECT_EQ(place(open()), place(first));
  EXPECT_TRUE(same(sample(open()), sample(first)));
  std::vector<ModelOptions> others(4);
  others[0].engine = "reference";
  others[1].compute_dtype = DType::bf16;
  others[2].group_norm_scope = GroupNormScope::frame;
  others[3].copy_weights = true;
  for (const ModelOptions& options : others) {
    const auto other = open(options);
    EXPECT_NE(place(other), place(first)) << other.engine() << " " << name_of(other.compute_dtype());
    if (options.engine == "reference") {
      EXPECT_EQ(other.engine(), "reference");
    }
    if (options.compute_dtype) {
      EXPECT_EQ(other.compute_dtype(), DType::bf16);
    }
    if (options.group_norm_scope) {
      EXPECT_EQ(other.config().group_norm_scope, GroupNormScope::frame);
    }
  }
  threads_get_one_model();
  the_configuration_counts();
}

TEST_F(Sharing, AFileThatChangedIsAnother) {
  const auto first = open();
  const Tensor before = sample(first);
  save(2);
  const auto second = open(), third = open();
  EXPECT_FALSE(same(sample(second), before));
  EXPECT_TRUE(same(sample(first), before));
  EXPECT_NE(place(second), place(third)) << "just written: its next change might leave its times";
  wait();
  // A model that was opened too early stays by itself.
  const auto fourth = open(), fifth = open();
  EXPECT_NE(place(fourth), place(second));
  EXPECT_EQ(place(fourth), place(fifth));
  EXPECT_TRUE(same(sample(fourth), sample(second)));
  // Written to in place: the mapped models say so, and no new one joins them.
  fs::last_write_time(folder_ / "diffusion_pytorch_model.safetensors",
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  const auto sixth = open();
  EXPECT_THROW((void)fourth.parameters(), IoError);
  EXPECT_TRUE(same(sample(sixth), sample(second)));
}

void Sharing::threads_get_one_model() const {
  std::vector<std::unique_ptr<TransformerTemporalModel>> models(6);
  std::vector<std::thread> threads;
  for (auto& model : models) threads.emplace_back([&] { model = std::make_unique<TransformerTemporalModel>(open()); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& model : models) EXPECT_EQ(place(*model), place(*models.front()));
}

/// Other configurations over the same tensors are other models.
void Sharing::the_configuration_counts() const {
  const auto first = open();
  auto config = first.config();
  config.norm_num_groups = 4;
  std::ofstream(folder_ / "config.json") << config.to_json();
  const auto second = open();
  EXPECT_EQ(second.config().norm_num_groups, 4);
  EXPECT_FALSE(same(sample(first), sample(second)));
}

}  // namespace
}  // namespace kineograph

// Clips of hundreds of frames: tiles that are walked a few panels at a time, and attention over blocks of keys.
#include <gtest/gtest.h>

#include <cstring>

#include "closeness.h"
#include "random_case.h"

namespace kineograph::testing {
namespace {

using engine::cpu_engine;

TEST(LongClips, AgreeWithTheReferenceOnRandomCases) {
  for (std::uint64_t seed = 0; seed < num_cases(16); ++seed) {
    RandomCase c(seed, RandomCase::Options::long_clips);
    c.draw_context();
    const Tensor want = c.run(engine::reference_engine(), DType::f32, "", 2);
    for (const Runner& runner : runners()) {
      if (runner.engine != "cpu") continue;
      SCOPED_TRACE("seed " + std::to_string(seed) + ", " + runner.name());
      const Tensor got = c.run(*cpu_engine(), runner.compute, runner.isa, 1, seed % 5 == 0);
      ASSERT_EQ(disagreement(c, runner.compute, want, got), "");
      // More threads than tiles: the others help.
      const Tensor shared = c.run(*cpu_engine(), runner.compute, runner.isa, 3);
      ASSERT_EQ(std::memcmp(got.data(), shared.data(), got.bytes()), 0) << c.describe();
    }
  }
}

// A head's keys and values of 1024 frames are 5 MB at 40 channels, its scores 4 MB for each vector of pixels.
TEST(LongClips, NeedLittleMemory) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 8;
  config.attention_head_dim = 40;
  config.in_channels = 320;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto model = TransformerTemporalModel::from_config(config, 1, {.engine = "cpu", .compute_dtype = dtype});
    const Tensor x(DType::f32, {1024, 320, 4, 4});
    EXPECT_LE(model.workspace_bytes(x, {.num_frames = 1024, .num_threads = 1}), std::size_t{64} << 20)
        << name_of(dtype);
  }
}

}  // namespace
}  // namespace kineograph::testing

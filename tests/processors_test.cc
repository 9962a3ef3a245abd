// The rights of an attention processor: to throw, and to call models.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "calls.h"

namespace kineograph {
namespace {

using testing::Deadline;
using testing::same;
using testing::waves;

/// Does something every now and then, and then what is done without a processor.
class Interrupting : public DefaultAttentionProcessor {
 public:
  explicit Interrupting(std::function<void(std::size_t)> what) : what_(std::move(what)) {}
  void operator()(const AttentionCall& call) override {
    what_(calls++);
    DefaultAttentionProcessor::operator()(call);
  }
  std::atomic<std::size_t> calls{0};

 private:
  std::function<void(std::size_t)> what_;
};

class Processors : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  TransformerTemporalModel model_ = TransformerTemporalModel::from_config(
      testing::temporal_config(16, 2), 1, ModelOptions{.engine = std::get<0>(GetParam())});
  Tensor x_ = waves({8, 16, 18, 18});
  int threads_ = std::get<1>(GetParam());

  ForwardOptions options(const AttentionProcessors* processors) const {
    ForwardOptions options;
    options.num_frames = 4;
    options.attention_processors = processors;
    options.num_threads = threads_;
    return options;
  }
  AttentionProcessors with(const std::shared_ptr<AttentionProcessor>& processor) const {
    return {{model_.attention_names().back(), processor}};
  }
};

/// Its exception arrives as it is, the other threads stop, and the next call is right.
TEST_P(Processors, MayThrow) {
  struct Mine : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  const auto nothing = std::make_shared<Interrupting>([](std::size_t) {});
  const AttentionProcessors plain = with(nothing);
  const Tensor want = model_.forward(x_, options(&plain)).sample;
  const std::size_t all = nothing->calls;
  ASSERT_GT(all, 8u);
  for (const std::size_t k : {std::size_t{0}, std::size_t{1}, all / 2, all - 1}) {
    const auto processor = std::make_shared<Interrupting>([k](std::size_t call) {
      if (call == k) throw Mine("call " + std::to_string(k));
    });
    const AttentionProcessors throwing = with(processor);
    try {
      model_.forward(x_, options(&throwing));
      FAIL() << "nothing was thrown at call " << k << " of " << all;
    } catch (const Mine& mine) {
      EXPECT_EQ(mine.what(), "call " + std::to_string(k));
    }
    if (k < 2) {
      EXPECT_LT(processor->calls, all) << "the others went on to the end";
    }
    ASSERT_TRUE(same(model_.forward(x_, options(&plain)).sample, want)) << "after call " << k;
  }
}

/// Its own model or another, with a processor or without.
TEST_P(Processors, MayCallForward) {
  const Deadline deadline(120);
  const auto other = TransformerTemporalModel::from_config(testing::temporal_config(24, 3), 5);
  const Tensor y = waves({4, 24, 9, 9});
  const auto recorder = std::make_shared<AttentionRecorder>();
  const AttentionProcessors recording = with(recorder);
  const auto nothing = std::make_shared<Interrupting>([](std::size_t) {});
  const AttentionProcessors plain = with(nothing);
  const Tensor want = model_.forward(x_, options(&plain)).sample,
               want_own = model_.forward(x_, options(&recording)).sample,
               want_other = other.forward(y, {.num_frames = 4}).sample;
  std::atomic<int> wrong{0}, nested{0};
  const AttentionProcessors calling = with(std::make_shared<Interrupting>([&](std::size_t call) {
    if (call % 9 != 0) return;
    ++nested;
    if (!same(model_.forward(x_, options(&recording)).sample, want_own)) ++wrong;
    if (!same(other.forward(y, {.num_frames = 4, .num_threads = threads_}).sample, want_other)) ++wrong;
  }));
  ASSERT_TRUE(same(model_.forward(x_, options(&calling)).sample, want));
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(nested, 0);
}

INSTANTIATE_TEST_SUITE_P(Engines, Processors,
                         ::testing::Combine(::testing::ValuesIn(engines()), ::testing::Values(1, 2, 4)),
                         [](const auto& instance) {
                           return std::get<0>(instance.param) + "_" + std::to_string(std::get<1>(instance.param));
                         });

}  // namespace
}  // namespace kineograph

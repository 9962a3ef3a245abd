// Memory that a program lends to the library: ModelOptions::memory.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory_resource>
#include <new>

#include "calls.h"

namespace kineograph {
namespace {

using testing::CallKind;
using testing::calls_of;
using testing::same;

/// Counts, and gives out nothing from the `fails`-th allocation on.
class Counting : public std::pmr::memory_resource {
 public:
  std::atomic<std::int64_t> allocations{0}, bytes{0}, live{0}, fails{INT64_MAX};

 private:
  void* do_allocate(std::size_t count, std::size_t alignment) override {
    if (++allocations > fails) throw std::bad_alloc();
    bytes += static_cast<std::int64_t>(count);
    live += static_cast<std::int64_t>(count);
    return std::pmr::new_delete_resource()->allocate(count, alignment);
  }
  void do_deallocate(void* p, std::size_t count, std::size_t alignment) override {
    live -= static_cast<std::int64_t>(count);
    std::pmr::new_delete_resource()->deallocate(p, count, alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

TEST(LentMemory, HoldsPackedWeightsAndWorkingValuesUntilTheModelIsGone) {
  const auto own = calls_of("cpu");
  for (std::size_t kind = 0; kind < own.size(); ++kind) {
    Counting memory;
    {
      ModelOptions options;
      options.memory = &memory;
      const CallKind call = calls_of("cpu", options)[kind];
      for (const int threads : {1, 3}) {
        ASSERT_TRUE(same(call.run({threads, {}}), own[kind].run({threads, {}}))) << call.name;
        EXPECT_GT(memory.live, 0) << call.name;
      }
      call.run({1, {}});
      const std::int64_t before = memory.live;
      for (int i = 0; i < 5; ++i) call.run({1, {}});
      EXPECT_EQ(memory.live, before) << call.name << " keeps more and more";
    }
    EXPECT_EQ(memory.live, 0) << own[kind].name;
  }
}

TEST(LentMemory, HoldsAllThatIsLarge) {
  Counting memory;
  const auto base = TransformerTemporalModel::from_config(testing::temporal_config(320, 8), 1);
  const auto model = TransformerTemporalModel::from_state_dict(base.config(), base.parameters(), nullptr,
                                                               {.engine = "cpu", .memory = &memory});
  const std::int64_t packed = memory.live;
  EXPECT_GE(packed, 4 * model.num_parameters() * 95 / 100);
  const Tensor x = testing::waves({16, 320, 8, 8});
  const ForwardOptions options{.num_frames = 16, .num_threads = 1};
  model.forward(x, options);
  EXPECT_NEAR(static_cast<double>(memory.live - packed), static_cast<double>(model.workspace_bytes(x, options)),
              0.05 * static_cast<double>(model.workspace_bytes(x, options)));
  const std::int64_t allocations = memory.allocations;
  for (int i = 0; i < 10; ++i) model.forward(x, options);
  EXPECT_EQ(memory.allocations, allocations) << "a steady stream of forwards allocates";
}

/// Whichever allocation fails, the call says so, the next is right, and nothing is lost.
TEST(LentMemory, MayRunOut) {
  const auto own = calls_of("cpu");
  for (std::size_t kind = 0; kind < own.size(); ++kind) {
    const auto want = own[kind].run({1, {}});
    Counting all;
    {
      ModelOptions options;
      options.memory = &all;
      calls_of("cpu", options)[kind].run({3, {}});
    }
    const std::int64_t step = std::max<std::int64_t>(1, all.allocations / 12);
    for (std::int64_t k = 0; k < all.allocations; k += step) {
      Counting memory;
      {
        ModelOptions options;
        options.memory = &memory;
        const CallKind call = calls_of("cpu", options)[kind];
        memory.fails = k;
        try {
          call.run({3, {}});
          EXPECT_LT(memory.allocations, all.allocations) << call.name;  // fewer threads happened to be at work
        } catch (const std::bad_alloc&) {
        }
        memory.fails = INT64_MAX;
        ASSERT_TRUE(same(call.run({3, {}}), want)) << call.name << " after allocation " << k << " failed";
      }
      EXPECT_EQ(memory.live, 0) << own[kind].name << " after allocation " << k << " failed";
    }
  }
}

}  // namespace
}  // namespace kineograph

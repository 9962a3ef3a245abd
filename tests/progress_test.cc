// Progress and cancellation of calls.
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "calls.h"

namespace kineograph {
namespace {

using testing::all_calls;
using testing::CallKind;
using testing::Deadline;
using testing::same;

/// The checks of a call that nobody ends.
std::size_t checks_of(const CallKind& call, int threads) {
  std::atomic<std::size_t> checks{0};
  call.run({threads, [&](double) { return ++checks != 0; }});
  return checks;
}

TEST(Progress, GoesFromZeroToOneAndNeverBack) {
  for (const CallKind& call : all_calls())
    for (const int threads : {1, 3}) {
      std::vector<double> told;
      std::thread::id last;
      std::atomic<int> inside{0};
      call.run({threads, [&](double done) {
                  EXPECT_EQ(++inside, 1) << call.name << ": two threads ask at once";
                  told.push_back(done);
                  last = std::this_thread::get_id();
                  --inside;
                  return true;
                }});
      // With several threads checks may fall together.
      ASSERT_GE(told.size(), threads == 1 ? 4u : 2u) << call.name;
      EXPECT_EQ(told.front(), 0.0) << call.name;
      EXPECT_EQ(told.back(), 1.0) << call.name;
      EXPECT_EQ(last, std::this_thread::get_id()) << call.name;
      for (std::size_t i = 1; i < told.size(); ++i) {
        EXPECT_GE(told[i], told[i - 1]) << call.name << " check " << i;
        if (i + 1 < told.size()) {
          EXPECT_LT(told[i], 1.0) << call.name << " check " << i;
        }
      }
      // One thread asks after each of n equal steps; the last part is for what follows them.
      if (threads == 1) {
        const double parts = 1.0 / (1.0 - told[told.size() - 2]);
        EXPECT_NEAR(parts, std::round(parts), 1e-6) << call.name;
        EXPECT_GE(parts, 2.0) << call.name;
      }
    }
}

/// Whenever a call is ended, the next one is right: equal bits.
TEST(Progress, ACallThatIsCancelledAtAnyCheckLeavesTheModelAsItWas) {
  const Deadline deadline(300);
  for (const CallKind& call : all_calls())
    for (const int threads : {1, 3}) {
      const auto want = call.run({threads, {}});
      const std::size_t checks = checks_of(call, threads);
      const std::size_t step = std::max<std::size_t>(1, checks / (call.name.starts_with("reference") ? 5 : 12));
      for (std::size_t k = 0; k < checks; k += step) {
        std::atomic<std::size_t> seen{0};
        bool cancelled = false;
        try {
          call.run({threads, [&](double) { return seen++ < k; }});
        } catch (const Cancelled& error) {
          cancelled = true;
          EXPECT_NE(std::string(error.what()).find("undefined"), std::string::npos);
        }
        // With several threads a check may fall together with another one.
        EXPECT_TRUE(cancelled || (threads > 1 && seen <= k)) << call.name << " check " << k << " of " << checks;
        EXPECT_LE(seen, k + 1) << call.name << ": asked again after it was ended";
        ASSERT_TRUE(same(call.run({threads, {}}), want)) << call.name << " after check " << k << " of " << checks;
      }
      std::size_t at_the_end = 0;
      EXPECT_THROW(call.run({threads,
                             [&](double done) {
                               at_the_end += done == 1.0;
                               return done < 1.0;
                             }}),
                   Cancelled)
          << call.name;
      EXPECT_EQ(at_the_end, 1u) << call.name;
    }
}

TEST(Progress, AnotherThreadEndsACall) {
  for (const std::string& engine : engines()) {
    const auto model =
        TransformerTemporalModel::from_config(testing::temporal_config(64, 2), 1, ModelOptions{.engine = engine});
    const Tensor x = testing::waves({64, 64, 32, 32});  // seconds in the reference engine
    std::atomic<bool> started{false}, stop{false};
    std::atomic<double> reached{0.0};
    std::thread other([&] {
      while (!started) std::this_thread::yield();
      stop = true;
    });
    EXPECT_THROW(model.forward(x, {.num_frames = 16,
                                   .on_progress =
                                       [&](double done) {
                                         started = true;
                                         while (done > 0.0 && !stop) std::this_thread::yield();
                                         reached = done;
                                         return !stop;
                                       }}),
                 Cancelled);
    other.join();
    EXPECT_LT(reached, 0.5) << engine;
  }
}

/// Threads stop at their next tile, whoever is asked.
TEST(Progress, ThreadsStopAtTheirNextTile) {
  class Counter : public DefaultAttentionProcessor {
   public:
    void operator()(const AttentionCall& call) override {
      ++calls;
      DefaultAttentionProcessor::operator()(call);
    }
    std::atomic<std::size_t> calls{0};
  };
  for (const std::string& engine : engines()) {
    const auto model =
        TransformerTemporalModel::from_config(testing::temporal_config(16, 2), 1, ModelOptions{.engine = engine});
    const Tensor x = testing::waves({4, 16, 40, 40});
    const auto counter = std::make_shared<Counter>();
    AttentionProcessors processors{{model.attention_names().front(), counter}};
    ForwardOptions options{.num_frames = 4, .attention_processors = &processors, .num_threads = 3};
    model.forward(x, options);
    const std::size_t all = counter->calls.exchange(0);
    options.on_progress = [&](double done) { return done == 0.0; };
    EXPECT_THROW(model.forward(x, options), Cancelled);
    EXPECT_LT(counter->calls, all / 2) << engine << ", " << all << " in a whole call";
  }
}

/// The handler's own exception arrives, not that of the threads that stop because of it.
TEST(Progress, AnExceptionOfTheHandlerEndsTheCallAndIsThrown) {
  struct Mine : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  for (const CallKind& call : all_calls()) {
    const auto want = call.run({3, {}});
    for (int repeat = 0; repeat < 4; ++repeat) {
      std::atomic<int> checks{0};
      EXPECT_THROW(call.run({4,
                             [&](double done) -> bool {
                               if (++checks > repeat && done < 1.0) throw Mine("stop");
                               return done < 1.0;  // a call too small for `repeat` checks ends too
                             }}),
                   std::exception)
          << call.name;
      try {
        call.run({4, [&](double) -> bool { throw Mine("stop"); }});
        FAIL() << call.name << ": nothing was thrown";
      } catch (const Mine& mine) {
        EXPECT_STREQ(mine.what(), "stop");
      }
      checks = 0;
      try {
        call.run({4, [&](double) -> bool {
                    if (++checks >= 2) throw Mine("later");
                    return true;
                  }});
        FAIL() << call.name << ": nothing was thrown";
      } catch (const Mine& mine) {
        EXPECT_STREQ(mine.what(), "later");
      }
    }
    ASSERT_TRUE(same(call.run({3, {}}), want)) << call.name;
  }
}

/// A handler may run a model, whose threads may meanwhile take up work of the call that asks.
TEST(Progress, AHandlerMayCallAModel) {
  const Deadline deadline(120);
  for (const CallKind& call : all_calls()) {
    const auto want = call.run({3, {}});
    int asked = 0;
    const auto got = call.run({3, [&](double) {
                                 if (asked++ % 4 == 0 && asked < 24) {
                                   EXPECT_TRUE(same(call.run({3, {}}), want));
                                 }
                                 return true;
                               }});
    ASSERT_TRUE(same(got, want)) << call.name;
  }
}

TEST(Progress, AnEmptyCallIsToldOfTwice) {
  const auto model = TransformerTemporalModel::from_config(testing::temporal_config(16, 2), 1);
  std::vector<double> told;
  model.forward(Tensor(DType::f32, {0, 16, 2, 2}), {.on_progress = [&](double done) {
                  told.push_back(done);
                  return true;
                }});
  EXPECT_EQ(told, (std::vector<double>{0.0, 1.0}));
}

}  // namespace
}  // namespace kineograph

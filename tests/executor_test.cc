// Threads that a program lends to the library.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "calls.h"
#ifdef KINEOGRAPH_TASKS
#include "kineograph/tbb_executor.h"
#endif

namespace kineograph {
namespace {

using testing::all_calls;
using testing::CallKind;
using testing::Deadline;
using testing::same;
using testing::waves;

/// An executor that counts its loops and keeps the threads of their bodies.
class Watched : public Executor {
 public:
  explicit Watched(int concurrency) : concurrency_(concurrency) {}
  int concurrency() const noexcept override { return concurrency_; }
  void parallel_for(std::size_t count, const std::function<void(std::size_t)>& body) override {
    EXPECT_GE(count, 1u);
    EXPECT_LE(count, static_cast<std::size_t>(concurrency_));
    most = std::max(most.load(), count);
    ++loops;
    run(count, [&](std::size_t i) {
      {
        const std::lock_guard lock(mutex_);
        threads.insert(std::this_thread::get_id());
      }
      body(i);
    });
  }
  std::atomic<std::size_t> most{0}, loops{0};
  std::set<std::thread::id> threads;

 protected:
  virtual void run(std::size_t count, const std::function<void(std::size_t)>& body) = 0;

 private:
  int concurrency_;
  std::mutex mutex_;
};

/// One body after the other, the last first.
class OneByOne : public Watched {
 public:
  OneByOne() : Watched(3) {}

 protected:
  void run(std::size_t count, const std::function<void(std::size_t)>& body) override {
    while (count-- > 0) body(count);
  }
};

/// A thread a body, none of which is the caller's; they begin whenever they do.
class ThreadEach : public Watched {
 public:
  ThreadEach() : Watched(4) {}

 protected:
  void run(std::size_t count, const std::function<void(std::size_t)>& body) override {
    std::vector<std::thread> all;
    for (std::size_t i = 0; i < count; ++i) all.emplace_back([&body, i] { body(i); });
    for (std::thread& thread : all) thread.join();
  }
};

/// No thread but the caller's.
class Alone : public Watched {
 public:
  Alone() : Watched(1) {}

 protected:
  void run(std::size_t, const std::function<void(std::size_t)>& body) override { body(0); }
};

void expect_same_bits(const CallKind& call, const std::vector<Tensor>& want, Executor& executor, int threads) {
  EXPECT_TRUE(same(call.run({threads, {}, &executor}), want)) << call.name << ", " << threads << " threads";
}

TEST(Executors, GiveTheSameBitsHoweverTheyRunTheirBodies) {
  const Deadline deadline(300);
  for (const CallKind& call : all_calls()) {
    const auto want = call.run({1, {}});
    for (int repeat = 0; repeat < (call.name.starts_with("reference") ? 1 : 2); ++repeat)
      for (const int threads : {0, 2, 64}) {
        OneByOne one_by_one;
        ThreadEach thread_each;
        Alone alone;
        for (Watched* executor : {static_cast<Watched*>(&one_by_one), static_cast<Watched*>(&thread_each)}) {
          expect_same_bits(call, want, *executor, threads);
          EXPECT_GE(executor->loops, 1u) << call.name;
          if (call.name.starts_with("cpu")) {
            EXPECT_EQ(executor->loops, call.name.find("backward") == std::string::npos ? 1u : 3u) << call.name;
            EXPECT_EQ(executor->most, threads == 2 ? 2u : static_cast<std::size_t>(executor->concurrency()));
          }
        }
        expect_same_bits(call, want, alone, threads);
      }
#ifdef KINEOGRAPH_TASKS
    tbb::task_arena arena(3);
    TbbExecutor in_arena(arena);
    expect_same_bits(call, want, in_arena, 0);
    tbb::task_group_context cancelled;
    tbb::parallel_for(
        0, 1,
        [&](int) {
          cancelled.cancel_group_execution();
          expect_same_bits(call, want, in_arena, 0);
        },
        cancelled);
#endif
  }
}

/// Notes the threads that it is called on.
class ThreadNote : public DefaultAttentionProcessor {
 public:
  void operator()(const AttentionCall& call) override {
    {
      const std::lock_guard lock(mutex_);
      threads.insert(std::this_thread::get_id());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // long enough for the others to come
    DefaultAttentionProcessor::operator()(call);
  }
  std::set<std::thread::id> threads;

 private:
  std::mutex mutex_;
};

TEST(Executors, AllWorkIsDoneOnTheirThreads) {
  for (const std::string& engine : engines()) {
    const auto base = TransformerTemporalModel::from_config(testing::temporal_config(32, 2), 1);
    const Tensor x = waves({8, 32, 20, 20});
    const auto note = std::make_shared<ThreadNote>();
    const AttentionProcessors processors{{base.attention_names().front(), note}};
    // The model's executor packs the weights, and runs the calls that bring none.
    ThreadEach models, calls;
    const auto model = TransformerTemporalModel::from_state_dict(base.config(), base.parameters(), nullptr,
                                                                 {.engine = engine, .executor = &models});
    if (engine == "cpu") {
      EXPECT_EQ(models.loops, 1u) << "packing";
    }
    const auto run = [&](Watched& executor, Executor* given) {
      const std::size_t before = executor.loops;
      note->threads.clear();
      model.forward(x, {.num_frames = 4, .attention_processors = &processors, .executor = given});
      EXPECT_GT(executor.loops, before) << engine;
      EXPECT_GT(note->threads.size(), 1u) << engine << ": one thread did it all";
      for (const std::thread::id& thread : note->threads) EXPECT_TRUE(executor.threads.contains(thread)) << engine;
    };
    run(models, nullptr);
    const std::size_t before = models.loops;
    run(calls, &calls);
    EXPECT_EQ(models.loops, before) << engine << ": a call's own executor comes first";
  }
}

/// Exceptions and cancellations come through, and the next call is right.
TEST(Executors, BodiesNeverThrow) {
  const Deadline deadline(120);
  for (const CallKind& call : all_calls()) {
    const auto want = call.run({1, {}});
    ThreadEach executor;
    for (int k = 1; k < 4; ++k) {
      std::atomic<int> checks{0};
      EXPECT_THROW(call.run({0, [&](double done) { return ++checks < k && done < 1.0; }, &executor}), Cancelled)
          << call.name;
      checks = 0;
      EXPECT_THROW(call.run({0,
                             [&](double done) -> bool {
                               if (++checks >= k || done == 1.0) throw std::out_of_range("mine");
                               return true;
                             },
                             &executor}),
                   std::out_of_range)
          << call.name;
      expect_same_bits(call, want, executor, 0);
    }
  }
}

/// A handler or processor that calls a model with the same executor finds the threads of the call that it is in.
TEST(Executors, CallsWithinCallsShareTheThreads) {
  const Deadline deadline(120);
  for (const CallKind& call : all_calls()) {
    if (!call.name.starts_with("cpu")) continue;
    const auto want = call.run({1, {}});
    ThreadEach executor;
    int asked = 0;
    const auto got = call.run({0,
                               [&](double) {
                                 if (asked++ % 4 == 1) {
                                   expect_same_bits(call, want, executor, 0);
                                   EXPECT_TRUE(same(call.run({2, {}}), want)) << call.name << ", the library's threads";
                                 }
                                 return true;
                               },
                               &executor});
    EXPECT_TRUE(same(got, want)) << call.name;
  }
}

TEST(Executors, ServeSeveralCallsAtOnce) {
  const Deadline deadline(120);
  const std::vector<CallKind> calls = testing::calls_of(engines().front());
  std::vector<std::vector<Tensor>> want;
  for (const CallKind& call : calls) want.push_back(call.run({1, {}}));
  ThreadEach executor;
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < calls.size(); ++i)
    callers.emplace_back([&, i] {
      for (int repeat = 0; repeat < 5; ++repeat) expect_same_bits(calls[i], want[i], executor, 0);
    });
  for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace kineograph

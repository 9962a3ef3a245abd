// Models that many threads use at once, and that are used from inside the caller's own tasks.
#include <gtest/gtest.h>

#ifdef KINEOGRAPH_TASKS
#include <tbb/parallel_for.h>
#endif

#include <chrono>
#include <thread>
#include <vector>

#include "calls.h"
#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

using testing::Deadline;
using testing::same;
using testing::temporal_config;
using testing::waves;

TransformerTemporalModel packed_anew(const TransformerTemporalModel& model) {
  return TransformerTemporalModel::from_state_dict(model.config(), model.parameters(), nullptr);
}

Tensor input_gradient(const TransformerTemporalModel& model, const Tensor& x, int threads) {
  Tensor gradient(DType::f32, x.shape());
  Gradients wanted;
  wanted.hidden_states = gradient.mutable_view();
  model.backward(x, x, wanted, {.num_frames = 4, .num_threads = threads});
  return gradient;
}

/// The first backward of a model packs its weights for training, on threads that its other callers wait on: none of
/// them may take up another's call meanwhile.
TEST(Concurrency, TheFirstBackwardsOfAModelFromSeveralThreads) {
  const auto base = TransformerTemporalModel::from_config(temporal_config(320, 8), 1, {.engine = "reference"});
  const Tensor x = waves({4, 320, 2, 2});
  const Tensor want = input_gradient(packed_anew(base), x, 1);
  const Deadline deadline(120);
  for (int round = 0; round < 40; ++round) {
    const auto model = packed_anew(base);
    std::vector<Tensor> got(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < got.size(); ++i)
      threads.emplace_back([&, i] {
        std::this_thread::sleep_for(std::chrono::microseconds(static_cast<int>(i) * (round * 37 % 800)));
        got[i] = input_gradient(model, x, 2);
      });
    for (std::thread& thread : threads) thread.join();
    for (const Tensor& gradient : got) ASSERT_TRUE(same(gradient, want)) << "round " << round;
  }
}

#ifdef KINEOGRAPH_TASKS
/// Whatever the caller's task group is, every piece of work is done.
TEST(Concurrency, ACancelledTaskGroupOfTheCallersLeavesNothingUndone) {
  auto config = temporal_config(64, 2);
  config.dropout = 0.1;
  const auto base = TransformerTemporalModel::from_config(config, 1, {.engine = "reference"});
  const Tensor x = waves({4, 64, 6, 6});
  const auto run = [&](int threads) {
    const auto model = packed_anew(base);
    std::vector<Tensor> results;
    results.push_back(model.forward(x, {.num_frames = 4, .num_threads = threads}).sample);
    results.push_back(model.forward(x, {.num_frames = 4, .training_seed = 7, .num_threads = threads}).sample);
    results.push_back(input_gradient(model, x, threads));
    return results;
  };
  const std::vector<Tensor> want = run(1);
  for (const int threads : {1, 2, 4})
    for (int repeat = 0; repeat < 5; ++repeat) {
      std::vector<Tensor> got;
      tbb::task_group_context context;
      tbb::parallel_for(
          0, 1,
          [&](int) {
            context.cancel_group_execution();
            got = run(threads);
          },
          context);
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t i = 0; i < want.size(); ++i)
        ASSERT_TRUE(same(got[i], want[i])) << "result " << i << ", " << threads << " threads";
    }
}

#endif

/// A recorder keeps whole maps of the last forward, whatever other threads do with it.
TEST(Concurrency, ARecorderWatchesForwardsOfTwoShapes) {
  const auto model = TransformerTemporalModel::from_config(temporal_config(8, 2), 1);
  const auto recorder = std::make_shared<AttentionRecorder>();
  AttentionProcessors processors;
  for (const std::string& name : model.attention_names()) processors[name] = recorder;
  const auto forwards = [&](std::int64_t frames, std::int64_t height, int count) {
    const Tensor x = waves({frames, 8, height, height});
    for (int i = 0; i < count; ++i)
      model.forward(x, {.num_frames = frames, .attention_processors = &processors, .num_threads = 2});
  };
  std::thread small([&] { forwards(4, 5, 40); }), large([&] { forwards(8, 9, 40); }), reader([&] {
    for (int i = 0; i < 200; ++i) {
      for (const std::string& name : recorder->names()) {
        const Tensor map = recorder->probabilities(name);
        for (std::int64_t k = 0; k < map.numel(); ++k) ASSERT_TRUE(map.data_as<float>()[k] >= 0.0f);
      }
      if (i % 10 == 0) recorder->clear();
    }
  });
  for (std::thread* thread : {&small, &large, &reader}) thread->join();

  forwards(4, 5, 1);
  const std::string name = model.attention_names().front();
  const Tensor map = recorder->probabilities(name);
  ASSERT_TRUE(map.shape() == Shape({1, 25, 2, 4, 4}));
  for (std::int64_t row = 0; row < map.numel() / 4; ++row) {
    float sum = 0.0f;
    for (std::int64_t s = 0; s < 4; ++s) sum += map.data_as<float>()[row * 4 + s];
    ASSERT_NEAR(sum, 1.0f, 1e-5f) << "row " << row;
  }
}

/// What a forward of before has recorded does not stay between the rows of the last one, and one that started earlier
/// writes nothing any more.
TEST(Concurrency, ARecorderKeepsTheForwardThatStartedLast) {
  AttentionRecorder recorder;
  const Tensor ones = waves({1, 1, 2, 3});
  Tensor out(DType::f32, {1, 1, 2, 3});
  AttentionCall call;
  call.name = "a";
  call.num_pixels = 2;
  call.query = call.key = call.value = ones;
  call.output = out.mutable_view();
  const auto at = [&](std::uint64_t forward, std::int64_t pixel) {
    call.forward = forward;
    call.first_pixel = pixel;
    recorder(call);
  };
  const auto sum_of = [&](std::int64_t pixel) {
    const Tensor map = recorder.probabilities("a");
    float sum = 0.0f;
    for (std::int64_t i = 0; i < 4; ++i) sum += map.data_as<float>()[pixel * 4 + i];
    return sum;
  };
  at(1, 0);
  EXPECT_NEAR(sum_of(0), 2.0f, 1e-6f);
  at(2, 1);
  EXPECT_EQ(sum_of(0), 0.0f);
  at(1, 0);
  EXPECT_EQ(sum_of(0), 0.0f);
  EXPECT_NEAR(sum_of(1), 2.0f, 1e-6f);
}

}  // namespace
}  // namespace kineograph

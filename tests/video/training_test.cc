// Training without the program: windows, batches, sessions.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "folder.h"
#include "kineograph/kineograph.h"
#include "thread_ranks.h"
#include "video/train/batch.h"
#include "video/train/log.h"
#include "video/train/plot.h"
#include "video/train/session.h"
#include "video/train/windows.h"

namespace kineograph::video {
namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

Video video_of(std::int64_t width, std::int64_t height, std::int64_t length) {
  Video video{"a video", width, height, {}};
  for (std::int64_t f = 0; f < length; ++f) {
    auto& frame = video.frames.emplace_back();
    for (std::int64_t i = 0; i < 3 * width * height; ++i)
      frame.push_back(static_cast<std::uint8_t>(40 + (i % width * 7 + i / width * 3 + f * 5) % 170));
  }
  return video;
}

TransformerTemporalConfig tiny_config(const char* prediction = "\"epsilon\"") {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 48;
  config.norm_num_groups = 1;
  config.double_self_attention = false;
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 3;
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = 8;
  config.private_keys = {{"_prediction_type", prediction}};
  return config;
}

TrainingOptions tiny_options(std::int64_t steps) {
  TrainingOptions options;
  options.steps = steps;
  options.warmup = 3;
  options.batches.batch = 3;
  options.batches.extents = {4, 24};
  options.batches.patch = 4;
  options.batches.patches = 3;
  options.batches.config = tiny_config();
  options.batches.seed = 9;
  return options;
}

std::vector<std::shared_ptr<const WindowSource>> sources_of(const WindowExtents& extents) {
  return {windows_of(video_of(31, 26, 6), extents), drawn_windows()};
}

TrainingSession session_of(std::int64_t steps, const std::string& engine) {
  const TrainingOptions options = tiny_options(steps);
  return {TransformerTemporalModel::from_config(tiny_config(), 4),
          options,
          sources_of(options.batches.extents),
          {.engine = engine},
          2};
}

// Every pixel of a window at scale 1 is a pixel of the video; at other scales means of some. Also for one frame, for
// fewer frames than a window, and for a video just as large as the window.
TEST(Windows, ComeFromTheVideo) {
  for (const auto& [width, height, length] :
       {std::array<std::int64_t, 3>{24, 24, 1}, {25, 31, 2}, {97, 50, 3}, {120, 100, 30}}) {
    Video video = video_of(width, height, length);
    for (auto& frame : video.frames) std::fill(frame.begin(), frame.end(), std::uint8_t{77});
    const WindowExtents extents{6, 24};
    const auto source = windows_of(std::move(video), extents);
    std::vector<std::uint8_t> window(static_cast<std::size_t>(extents.values()));
    for (std::uint64_t i = 0; i < 50; ++i) {
      Random random(1, {i});
      std::fill(window.begin(), window.end(), std::uint8_t{0});
      source->draw(random, extents, window);
      EXPECT_TRUE(std::all_of(window.begin(), window.end(), [](std::uint8_t v) { return v == 77; })) << i;
    }
  }
  EXPECT_THROW(windows_of(video_of(23, 40, 3), {6, 24}), ArgumentError);
}

// Scenes of 5, 2, 9 and 1 frames, told apart by what green shows; red is the frame's number.
TEST(Windows, StayInsideScenes) {
  const WindowExtents extents{6, 24};
  const auto scene_of = [](int frame) { return frame < 5 ? 0 : frame < 7 ? 1 : frame < 16 ? 2 : 3; };
  Video video{"a video", 48, 40, {}};
  for (int f = 0; f < 17; ++f) {
    auto& frame = video.frames.emplace_back(std::size_t{48} * 40, static_cast<std::uint8_t>(10 * f));
    for (int y = 0; y < 40; ++y)
      for (int x = 0; x < 48; ++x) {
        const double angle = scene_of(f) % 2 == 0 ? x * 0.15 + scene_of(f) : y * 0.2 - scene_of(f);
        frame.push_back(static_cast<std::uint8_t>(128 + 60 * std::sin(angle)));
      }
    frame.resize(std::size_t{3} * 48 * 40, 50);
  }
  const auto source = windows_of(std::move(video), extents);
  std::vector<std::uint8_t> window(static_cast<std::size_t>(extents.values()));
  std::set<int> seen;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed, {});
    source->draw(random, extents, window);
    std::set<int> scenes;
    for (std::int64_t f = 0; f < extents.frames; ++f) {
      const int number = window[static_cast<std::size_t>(f * extents.frame_values())] / 10;
      seen.insert(number);
      scenes.insert(scene_of(number));
    }
    EXPECT_EQ(scenes.size(), 1u) << seed;
  }
  EXPECT_EQ(seen.size(), 17u) << "frames that no window showed";
}

TEST(Windows, AreDifferentAndMove) {
  const WindowExtents extents{6, 24};
  for (const auto& source : sources_of(extents)) {
    std::vector<std::uint8_t> first(static_cast<std::size_t>(extents.values())), second(first.size());
    int moving = 0;
    for (std::uint64_t i = 0; i < 20; ++i) {
      Random one(1, {i}), same(1, {i}), other(2, {i});
      source->draw(one, extents, first);
      source->draw(same, extents, second);
      EXPECT_TRUE(first == second);
      source->draw(other, extents, second);
      EXPECT_FALSE(first == second);
      moving +=
          !std::equal(first.begin(), first.begin() + extents.frame_values(), first.end() - extents.frame_values());
    }
    EXPECT_GT(moving, 10);
  }
}

TEST(Windows, AugmentingKeepsShapes) {
  const WindowExtents extents{3, 8};
  std::vector<std::uint8_t> window(static_cast<std::size_t>(extents.values()), 128);
  window[3 * 8 + 1] = 200;  // red of one pixel of the first frame
  for (std::uint64_t i = 0; i < 50; ++i) {
    auto changed = window;
    Random random(1, {i});
    augment(random, extents, changed);
    const std::uint8_t ground = changed.back();
    int different = 0;
    for (std::int64_t j = 0; j < extents.values(); ++j) different += changed[static_cast<std::size_t>(j)] != ground;
    EXPECT_EQ(different, 1) << i;
  }
}

TEST(Batches, DependOnTheirNumberOnly) {
  const BatchOptions options = tiny_options(1).batches;
  const auto sources = sources_of(options.extents);
  const Batch a = make_batch(sources, options, 5), b = make_batch(sources, options, 5),
              c = make_batch(sources, options, 6);
  EXPECT_EQ(a.hidden_states.shape(), Shape({3 * 4, 48, 3, 3}));
  const auto bytes = [](const Tensor& tensor) {
    return std::string(static_cast<const char*>(tensor.data()), tensor.bytes());
  };
  EXPECT_EQ(bytes(a.hidden_states), bytes(b.hidden_states));
  EXPECT_EQ(bytes(a.target), bytes(b.target));
  EXPECT_EQ(bytes(a.timestep), bytes(b.timestep));
  EXPECT_NE(bytes(a.hidden_states), bytes(c.hidden_states));
}

// With all patches side by side and noise only, a batch's input has mean 0 and deviation 1, and what is asked for is
// the noise: input minus target is the clean window, input itself minus that is `sigma` strong.
TEST(Batches, AreNormalised) {
  BatchOptions options = tiny_options(1).batches;
  options.patches = 0;
  options.damage.probabilities = {1, 0, 0};
  options.damage.least_sigma = options.damage.most_sigma = 10;
  const Batch batch = make_batch(sources_of(options.extents), options, 0);
  const std::int64_t values = batch.hidden_states.numel() / options.batch;
  for (std::int64_t b = 0; b < options.batch; ++b) {
    const auto window = [&](const Tensor& tensor) {
      return std::span<const float>(tensor.data_as<float>() + b * values, static_cast<std::size_t>(values));
    };
    const Moments input = moments_of(window(batch.hidden_states)), noise = moments_of(window(batch.target));
    EXPECT_NEAR(input.mean, 0, 1e-3);
    EXPECT_NEAR(input.deviation, 1, 1e-3);
    // timestep = 1000 sigma / deviation; clipping at black and white takes a little.
    EXPECT_NEAR(noise.deviation, batch.timestep.data_as<float>()[b] / 1000, 0.1 * noise.deviation);
    EXPECT_EQ(batch.class_labels.data_as<std::int64_t>()[b], 0);
    // Left as it is, all of the noise remains.
    EXPECT_NEAR(batch.weights[static_cast<std::size_t>(b)] * noise.deviation * noise.deviation, 1, 0.2);
  }
}

TEST(Loss, HasTheGradientOfItsDifferences) {
  BatchOptions options = tiny_options(1).batches;
  const Batch batch = make_batch(sources_of(options.extents), options, 2);
  Tensor sample = batch.hidden_states, gradient(DType::f32, sample.shape()), unused(DType::f32, sample.shape());
  squared_error(batch, sample, gradient);
  for (std::int64_t i = 0; i < sample.numel(); i += 131) {
    float& value = sample.data_as<float>()[i];
    const float before = value;
    value = before + 0.5f;
    const double above = squared_error(batch, sample, unused);
    value = before - 0.5f;
    const double below = squared_error(batch, sample, unused);
    value = before;
    // Exact for a square, but for the rounding of f32 errors.
    EXPECT_NEAR(gradient.data_as<float>()[i], above - below, 1e-5 * std::abs(above) + 1e-7) << i;
  }
}

using SessionTest = FolderTest;

TEST_F(SessionTest, ContinuesBitForBit) {
  for (const std::string& engine : engines()) {
    auto whole = session_of(20, engine), first = session_of(20, engine);
    std::vector<StepReport> reports;
    while (!whole.finished()) reports.push_back(whole.step());
    ASSERT_EQ(reports.size(), 20u);
    for (int i = 0; i < 10; ++i) first.step();
    first.save(folder_ / "half.safetensors", "{}");
    auto second = session_of(20, engine);
    second.step();  // what it did before must not matter
    second.load(Checkpoint::open(folder_ / "half.safetensors"));
    EXPECT_EQ(second.steps_done(), 10);
    for (std::size_t i = 10; !second.finished(); ++i) {
      const StepReport report = second.step();
      EXPECT_EQ(report.step, static_cast<std::int64_t>(i + 1));
      EXPECT_EQ(report.loss, reports[i].loss) << engine << " step " << report.step;
      EXPECT_EQ(report.gradient_norm, reports[i].gradient_norm);
    }
    whole.save(folder_ / "whole.safetensors", "{}");
    second.save(folder_ / "second.safetensors", "{}");
    EXPECT_TRUE(content(folder_ / "whole.safetensors") == content(folder_ / "second.safetensors")) << engine;
    whole.save_model(folder_ / "whole", DType::f32);
    second.save_model(folder_ / "second", DType::f32);
    EXPECT_TRUE(content(folder_ / "whole/diffusion_pytorch_model.safetensors") ==
                content(folder_ / "second/diffusion_pytorch_model.safetensors"));
  }
}

// A step of 5 windows in parts of 1 and of 2: whoever computes them, the same weights; and one part is the whole batch.
TEST_F(SessionTest, RanksShareAStepBitForBit) {
  TrainingOptions options = tiny_options(4);
  options.batches.batch = 5;
  options.batches.config.dropout = 0.2;
  const auto train = [&](std::int64_t micro_batch, int ranks, const std::string& name) {
    TrainingOptions own = options;
    own.micro_batch = micro_batch;
    const auto thrown = testing::run_ranks(std::max(ranks, 1), [&](Communicator& rank) {
      TrainingSession session(TransformerTemporalModel::from_config(own.batches.config, 4), own,
                              sources_of(own.batches.extents), {}, 1, ranks == 0 ? nullptr : &rank);
      while (!session.finished()) session.step();
      session.save(folder_ / (name + std::to_string(rank.rank())), "{}");
    });
    for (const std::exception_ptr& error : thrown)
      if (error) std::rethrow_exception(error);
    return content(folder_ / (name + "0"));
  };
  const std::string whole = train(0, 0, "whole");
  EXPECT_TRUE(train(5, 0, "five") == whole);
  for (const std::int64_t micro_batch : {1, 2}) {
    const std::string alone = train(micro_batch, 0, "alone");
    EXPECT_FALSE(alone == whole) << "parts draw their own dropout";
    for (int ranks = 1; ranks <= 4; ++ranks) {
      EXPECT_TRUE(train(micro_batch, ranks, "ranks") == alone) << ranks;
      for (int rank = 1; rank < ranks; ++rank)
        EXPECT_TRUE(content(folder_ / ("ranks" + std::to_string(rank))) == alone) << ranks << " " << rank;
    }
  }
}

// Parts add up to the whole batch's gradient where nothing is dropped, but for f32's rounding in another order.
TEST_F(SessionTest, PartsAddUpToTheBatch) {
  TransformerTemporalConfig config = tiny_config();
  config.norm_type = NormType::layer_norm;
  config.num_embeds_ada_norm = std::nullopt;
  const auto step = [&](std::int64_t micro_batch) {
    TrainingOptions options = tiny_options(1);
    options.micro_batch = micro_batch;
    options.batches.config = config;
    return TrainingSession(TransformerTemporalModel::from_config(config, 4), options,
                           sources_of(options.batches.extents), {}, 1)
        .step();
  };
  const StepReport whole = step(0);
  for (const std::int64_t micro_batch : {1, 2}) {
    const StepReport parts = step(micro_batch);
    EXPECT_NEAR(parts.loss, whole.loss, 1e-6 * whole.loss) << micro_batch;
    EXPECT_NEAR(parts.gradient_norm, whole.gradient_norm, 1e-5 * whole.gradient_norm) << micro_batch;
  }
}

TEST_F(SessionTest, LearnsAndSavesTheAverage) {
  TrainingOptions options = tiny_options(300);
  options.learning_rate = 1e-2;
  options.ema = 0.9;
  options.batches.damage.probabilities = {1, 0, 0};
  TransformerTemporalConfig config = tiny_config();
  TrainingSession session(TransformerTemporalModel::from_config(config, 4), options,
                          sources_of(options.batches.extents), {}, 2);
  double first = 0, last = 0;
  while (!session.finished()) {
    const StepReport report = session.step();
    if (report.step <= 30) first += report.loss;
    if (report.step > 270) last += report.loss;
  }
  EXPECT_LT(last, first / 2);
  session.save_model(folder_ / "model", DType::bf16);
  session.save(folder_ / "checkpoint.safetensors", "{}");
  const Checkpoint checkpoint = Checkpoint::open(folder_ / "checkpoint.safetensors");
  const auto model = TransformerTemporalModel::from_pretrained(folder_ / "model");
  EXPECT_EQ(model.dtype(), DType::bf16);
  EXPECT_EQ(model.config().to_json(), config.to_json());
  for (const Parameter& parameter : model.parameters()) {
    const Tensor saved = convert(parameter.value, DType::f32);
    const Tensor average = convert(convert(checkpoint.find("average." + parameter.name), DType::bf16), DType::f32);
    for (std::int64_t i = 0; i < saved.numel(); ++i)
      ASSERT_EQ(saved.data_as<float>()[i], average.data_as<float>()[i]) << parameter.name;
  }
}

TEST_F(SessionTest, StopsBeforeNonsenseReachesTheWeights) {
  TrainingOptions options = tiny_options(20);
  options.learning_rate = 1e38;
  options.clip_norm = 0;
  options.warmup = 0;
  TrainingSession session(TransformerTemporalModel::from_config(tiny_config(), 4), options,
                          sources_of(options.batches.extents), {}, 2);
  EXPECT_THROW(
      {
        while (!session.finished()) session.step();
      },
      Error);
  EXPECT_LT(session.steps_done(), 20);
}

TEST_F(SessionTest, RefusesOtherCheckpoints) {
  auto session = session_of(20, "reference");
  session.step();
  session.save(folder_ / "good.safetensors", "{}");
  save_safetensors(folder_ / "none.safetensors", {});
  EXPECT_THROW(session.load(Checkpoint::open(folder_ / "none.safetensors")), CheckpointError);
  const Checkpoint good = Checkpoint::open(folder_ / "good.safetensors");
  auto tensors = good.tensors();
  tensors.pop_back();
  save_safetensors(folder_ / "short.safetensors", tensors, good.metadata());
  EXPECT_THROW(session.load(Checkpoint::open(folder_ / "short.safetensors")), CheckpointError);
  session.load(good);
  EXPECT_EQ(session.steps_done(), 1);
}

TEST_F(SessionTest, AFullDiskLeavesTheLastCheckpoint) {
  auto session = session_of(20, "reference");
  session.save(folder_ / "checkpoint.safetensors", "{}");
  session.save_model(folder_ / "model", DType::f32);
  const std::string checkpoint = content(folder_ / "checkpoint.safetensors");
  const std::string model = content(folder_ / "model/diffusion_pytorch_model.safetensors");
  session.step();
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit small { 1024, before.rlim_max };
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(session.save(folder_ / "checkpoint.safetensors", "{}"), IoError);
  EXPECT_THROW(session.save_model(folder_ / "model", DType::f32), IoError);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_TRUE(content(folder_ / "checkpoint.safetensors") == checkpoint);
  EXPECT_TRUE(content(folder_ / "model/diffusion_pytorch_model.safetensors") == model);
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) EXPECT_NE(entry.path().extension(), ".tmp");
}

using LogTest = FolderTest;

TEST_F(LogTest, DropsWhatCameAfterTheCheckpoint) {
  {
    TrainingLog log(folder_, 0);
    for (std::int64_t step = 1; step <= 5; ++step) log.add({step, 0.5 / static_cast<double>(step), 1, 0.1});
    EXPECT_NEAR(log.recent_loss(), 0.5 * (1 + 1 / 2.0 + 1 / 3.0 + 1 / 4.0 + 1 / 5.0) / 5, 1e-12);
  }
  std::ofstream(folder_ / "log.csv", std::ios::app) << "6,0.1,";  // killed in the middle of a line
  TrainingLog log(folder_, 3);
  EXPECT_NEAR(log.recent_loss(), 0.5 * (1 + 1 / 2.0 + 1 / 3.0) / 3, 1e-6);
  log.add({4, 0.25, 1, 0.1});
  const std::string text = content(folder_ / "log.csv");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
  EXPECT_EQ(text.find("step,loss,gradient_norm,learning_rate,seconds\n1,0.5,1,0.1,"), 0u);
  EXPECT_NE(text.find("\n3,0.166666667,"), std::string::npos);
  EXPECT_NE(text.find("\n4,0.25,"), std::string::npos);
  EXPECT_EQ(text.find("\n5,"), std::string::npos);
  log.plot();
  const std::string svg = content(folder_ / "loss.svg");
  EXPECT_EQ(svg.find("<svg "), 0u);
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
}

TEST(LossPlot, IsAPictureWhateverTheLosses) {
  for (const std::vector<double>& losses :
       {std::vector<double>{}, {1.0}, {1.0, 1.0}, {1.0, 0.1, std::nan(""), 0.01}, std::vector<double>(5000, 0.5)}) {
    const std::string svg = loss_plot(losses);
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
    EXPECT_LT(svg.size(), 100000u);
    EXPECT_EQ(svg.find("<polyline") != std::string::npos, true);
  }
}

}  // namespace
}  // namespace kineograph::video

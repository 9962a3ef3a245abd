// The CUDA engine against the reference and diffusers, on the emulated device or, built without emulated/, on a real
// one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "closeness.h"
#include "engine/cuda/layout.h"
#include "engine/cuda/plan.h"
#include "engine/progress.h"
#include "golden_cases.h"
#include "random_case.h"

namespace kineograph::testing {
namespace {

using engine::cuda::Extents;
using engine::cuda::make_layout;
using engine::cuda::prepare_plan;

/// Whether KINEOGRAPH_CASES asks for more than the suite has time for, as make cuda-tests does.
bool is_thorough() { return num_cases(0) != 0; }

ModelOptions on_cuda(std::optional<DType> compute) {
  ModelOptions options;
  options.engine = "cuda";
  options.compute_dtype = compute;
  return options;
}

/// A message of the error that `body` throws.
template <class Body>
std::string refusal(const Body& body) {
  try {
    body();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "none";
}

class CudaGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(CudaGolden, AgreesWithDiffusersOrIsRefusedByName) {
  const Golden golden = load_golden(golden_folder() / (GetParam() + ".safetensors"));
  const TransformerTemporalConfig& c = golden.config;
  const bool model_fits = c.norm_type == NormType::layer_norm && !c.is_discrete() &&
                          c.in_channels.value_or(0) % 8 == 0 && c.attention_head_dim % 8 == 0 &&
                          (!c.has_attn2() || c.attn2_context_dim() % 8 == 0);
  std::vector<DType> computes = {DType::f16, DType::bf16};
  if (c.inner_dim() > 1000 && !is_thorough()) GTEST_SKIP() << "make cuda-tests takes its time";
  if (c.inner_dim() > 100 && !is_thorough()) computes = {computes[GetParam().size() % 2]};
  for (const DType compute : computes) {
    if (!model_fits) {
      EXPECT_NE(refusal([&] { golden.model(on_cuda(compute)); }).find(" on engine cuda: expected "), std::string::npos);
      continue;
    }
    const TransformerTemporalModel model = golden.model(on_cuda(compute));
    EXPECT_EQ(model.engine(), "cuda");
    EXPECT_EQ(model.compute_dtype(), compute);
    const auto run = [&] { return model.forward(golden.hidden_states(), golden.arguments()).sample; };
    const std::string refused = refusal([&] {
      expect_close(run(), golden.sample(), c, {"cuda", std::string(model.isa()), compute},
                   golden.hidden_states().dtype());
    });
    const bool windows = golden.context && golden.context->length < golden.num_frames;
    EXPECT_EQ(refused.substr(0, 7), windows ? "context" : "none");
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaGolden, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

class CudaEngine : public ::testing::TestWithParam<DType> {};

TEST_P(CudaEngine, AgreesWithTheReferenceOnRandomCases) {
  for (std::uint64_t seed = 0; seed < num_cases(6); ++seed) {
    const RandomCase c(seed, RandomCase::Options::cuda);
    const Tensor want = c.run(engine::reference_engine(), DType::f32, "", 2);
    const Tensor got = c.run(*engine::cuda_engine(), GetParam(), "", 1, seed % 5 == 0);
    ASSERT_EQ(disagreement(c, GetParam(), want, got), "") << "seed " << seed;
  }
}

// A pixel's answer does not depend on the pixels beside it.
TEST_P(CudaEngine, GivesTheSameBitsInSlabsOfAnySize) {
  for (std::uint64_t seed = 500; seed < (is_thorough() ? 504U : 501U); ++seed) {
    const RandomCase c(seed, RandomCase::Options::cuda);
    Tensor want = c.make_output();
    prepare_plan(c.config, c.weights, GetParam())->forward(c.inputs, want.mutable_view());
    for (const std::size_t slab_bytes : {std::size_t{1}, std::size_t{200} << 10}) {
      if (slab_bytes == 1 && c.inputs.height * c.inputs.width > 40) continue;
      Tensor got = c.make_output();
      prepare_plan(c.config, c.weights, GetParam(), slab_bytes)->forward(c.inputs, got.mutable_view());
      ASSERT_EQ(std::memcmp(want.data(), got.data(), want.bytes()), 0) << slab_bytes << ", " << c.describe();
    }
  }
}

TEST_P(CudaEngine, WritesASampleOfAnyDTypeAndStrides) {
  const RandomCase c(7, RandomCase::Options::cuda);
  const auto plan = prepare_plan(c.config, c.weights, GetParam());
  const Shape& shape = c.inputs.hidden_states.shape();
  Tensor want(DType::f32, shape);
  plan->forward(c.inputs, want.mutable_view());
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Tensor got(dtype, {shape[0], shape[2], shape[3], shape[1]});
    const Dims s = contiguous_strides(got.shape());
    plan->forward(c.inputs, MutableTensorView(got.data(), dtype, shape, {s[0], s[3], s[1], s[2]}));
    const Tensor row_major = convert({got.data(), dtype, shape, {s[0], s[3], s[1], s[2]}}, DType::f64);
    EXPECT_EQ(disagreement(c, GetParam(), convert(want, DType::f64), row_major), "") << name_of(dtype);
  }
}

TEST_P(CudaEngine, ManyCallsAtOnceAreEachRight) {
  const RandomCase c(11, RandomCase::Options::cuda);
  const auto plan = prepare_plan(c.config, c.weights, GetParam(), std::size_t{64} << 10);
  Tensor want = c.make_output();
  plan->forward(c.inputs, want.mutable_view());
  std::vector<std::thread> threads;
  std::vector<int> wrong(3, 0);
  for (int& count : wrong)
    threads.emplace_back([&] {
      Tensor got = c.make_output();
      plan->forward(c.inputs, got.mutable_view());
      count += std::memcmp(want.data(), got.data(), want.bytes()) != 0;
    });
  for (std::thread& thread : threads) thread.join();
  for (int count : wrong) EXPECT_EQ(count, 0);
}

INSTANTIATE_TEST_SUITE_P(All, CudaEngine, ::testing::Values(DType::f16, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// AnimateDiff at 512 x 512 and AnimateDiff-SDXL at 1024 x 1024, with text a video and a pixel; and a long clip.
TEST(CudaLayout, StaysWithinASlabAtAnySize) {
  for (const auto& [videos, frames, pixels, inner] :
       {std::tuple{2, 16, 4096, 320}, {2, 16, 64, 1280}, {2, 16, 16384, 320}, {1, 128, 65536, 640}, {500, 8, 1, 8}})
    for (const int keys : {0, 77})
      for (const bool per_video : {false, true}) {
        const Extents e = {videos, frames, pixels, inner, 32, inner, 4 * inner, keys, per_video, false};
        const auto layout = make_layout(e, engine::cuda::kSlabBytes);
        EXPECT_LE(layout.bytes, engine::cuda::kSlabBytes);
        EXPECT_GE(layout.slab_pixels, 1);
        EXPECT_LE(layout.slab_pixels, e.all_pixels());
      }
}

TransformerTemporalConfig small_config() {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.in_channels = 16;
  config.norm_num_groups = 2;
  return config;
}

TEST(CudaRefusals, NameWhatTheEngineDoesNotDo) {
  const auto model = [](auto change) {
    TransformerTemporalConfig config = small_config();
    change(config);
    return refusal([&] { TransformerTemporalModel::from_config(config, 1, on_cuda(DType::f16)); });
  };
  using C = TransformerTemporalConfig&;
  EXPECT_EQ(model([](C) {}), "none");
  EXPECT_EQ(model([](C c) { c.attention_head_dim = 12; }).substr(0, 18), "attention_head_dim");
  EXPECT_EQ(model([](C c) { c.attention_head_dim = 264; }).substr(0, 18), "attention_head_dim");
  EXPECT_EQ(model([](C c) { c.in_channels = 20; }).substr(0, 11), "in_channels");
  EXPECT_EQ(model([](C c) { c.double_self_attention = false, c.cross_attention_dim = 9; }).substr(0, 19),
            "cross_attention_dim");
  EXPECT_EQ(model([](C c) { c.norm_type = NormType::ada_norm, c.num_embeds_ada_norm = 3; }).substr(0, 9), "norm_type");
  Transformer2DConfig spatial;
  spatial.num_attention_heads = 1;
  spatial.attention_head_dim = 8;
  spatial.in_channels = 8;
  spatial.norm_num_groups = 1;
  EXPECT_NE(
      refusal([&] { Transformer2DModel::from_config(spatial, 1, on_cuda(DType::f16)); }).find("Transformer2DModel"),
      std::string::npos);
}

TEST(CudaRefusals, OfDTypesSayWhatThereIs) {
  const auto make = [](DType weights, std::optional<DType> compute) {
    return TransformerTemporalModel::from_config(small_config(), 1, on_cuda(compute), weights).compute_dtype();
  };
  EXPECT_EQ(make(DType::f16, {}), DType::f16);
  EXPECT_EQ(make(DType::bf16, {}), DType::bf16);
  EXPECT_EQ(make(DType::f32, DType::bf16), DType::bf16);
  EXPECT_NE(refusal([&] { make(DType::f32, {}); }).find("expected f16 or bf16, found f32"), std::string::npos);
  EXPECT_NE(refusal([&] { make(DType::f16, DType::f32); }).find("expected f16 or bf16, found f32"), std::string::npos);
  RandomCase c(3, RandomCase::Options::cuda);
  Tensor large(DType::f32, c.weights.proj_in.weight.shape());
  large.data_as<float>()[0] = 1e5f;
  c.weights.proj_in.weight = large;
  EXPECT_NE(refusal([&] { prepare_plan(c.config, c.weights, DType::f16); }).find("values that f16 holds"),
            std::string::npos);
  EXPECT_EQ(refusal([&] { prepare_plan(c.config, c.weights, DType::bf16); }), "none");
}

/// A process by itself.
class Alone : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_gather(std::span<const double> mine, std::span<double> all) override {
    std::ranges::copy(mine, all.begin());
  }
};

TEST(CudaRefusals, OfCallsComeBeforeAnyWork) {
  TransformerTemporalConfig config = small_config();
  config.dropout = 0.1;
  const auto model = TransformerTemporalModel::from_config(config, 1, on_cuda(DType::f16));
  const Tensor x(DType::f32, {4, 16, 2, 2});
  Tensor gradient(DType::f32, x.shape());
  const auto call = [&](ForwardOptions options) {
    options.num_frames = 4;
    return refusal([&] { model.forward(x, options); });
  };
  EXPECT_EQ(call({}), "none");
  EXPECT_EQ(call({.training_seed = 1}).substr(0, 13), "training_seed");
  EXPECT_EQ(call({.context = ContextOptions{.length = 2, .stride = 1}}).substr(0, 7), "context");
  Alone alone;
  EXPECT_EQ(call({.communicator = &alone, .total_image_rows = 2}).substr(0, 12), "communicator");
  const AttentionProcessors processors = {{model.attention_names()[0], std::make_shared<AttentionRecorder>()}};
  EXPECT_EQ(call({.attention_processors = &processors}).substr(0, 20), "attention_processors");
  EXPECT_EQ(refusal([&] {
              model.backward(x, x, {.hidden_states = gradient.mutable_view()}, {.num_frames = 4});
            }).substr(0, 8),
            "backward");
}

TEST(CudaProgress, IsToldOfEverySlabAndEndsACall) {
  const RandomCase c(11, RandomCase::Options::cuda);
  const auto plan = prepare_plan(c.config, c.weights, DType::f16, 1);
  std::vector<double> told;
  const auto follow = [&](std::size_t most) {
    const std::function<bool(double)> handler = [&](double done) { return told.push_back(done), told.size() < most; };
    engine::Progress progress(handler);
    engine::Inputs inputs = c.inputs;
    inputs.progress = &progress;
    Tensor output = c.make_output();
    progress.follow([&] { plan->forward(inputs, output.mutable_view()); });
  };
  follow(100000);
  EXPECT_EQ(told.size(), 2 + static_cast<std::size_t>(c.inputs.num_videos * c.inputs.height * c.inputs.width));
  EXPECT_TRUE(std::ranges::is_sorted(told));
  told.clear();
  EXPECT_THROW(follow(3), Cancelled);
  EXPECT_EQ(told.size(), 3U);
}

}  // namespace
}  // namespace kineograph::testing

// Costs of a forward beside its arithmetic, and of a model before its first: Google Benchmark's options, and
//   cmake --preset release -DKINEOGRAPH_BENCH=ON && cmake --build build/release && build/release/bin/engine_bench
#include <benchmark/benchmark.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

TransformerTemporalConfig config_of(std::int64_t heads, std::int64_t head_dim) {
  TransformerTemporalConfig config;
  config.num_attention_heads = heads;
  config.attention_head_dim = head_dim;
  config.in_channels = heads * head_dim;
  config.norm_num_groups = heads * head_dim % 32 == 0 ? 32 : 1;
  return config;
}

Tensor draw(const Shape& shape) {
  Tensor x(DType::f32, shape);
  std::minstd_rand generator(1);
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data_as<float>()[i] = normal(generator);
  return x;
}

std::int64_t bytes_of(const TransformerTemporalModel& model) {
  return model.num_parameters() * static_cast<std::int64_t>(sizeof(float));
}

/// One forward of F=8, 8x8, with so few channels that its arithmetic is next to nothing: an upper bound of what a call
/// costs whatever its size. Argument: threads.
void FixedCost(benchmark::State& state) {
  const auto model = TransformerTemporalModel::from_config(config_of(1, 4), 1);
  const Tensor x = draw({8, 4, 8, 8});
  Tensor y(DType::f32, x.shape());
  const ForwardOptions options{.num_frames = 8, .num_threads = static_cast<int>(state.range(0))};
  for (auto _ : state) model.forward(x, y.mutable_view(), options);
}
BENCHMARK(FixedCost)->Arg(1)->Arg(2)->Unit(benchmark::kMicrosecond)->UseRealTime();

/// The same call with the arithmetic of C=320, to hold the fixed cost to.
void SmallForward(benchmark::State& state) {
  const auto model = TransformerTemporalModel::from_config(config_of(8, 40), 1);
  const Tensor x = draw({8, 320, 8, 8});
  Tensor y(DType::f32, x.shape());
  const ForwardOptions options{.num_frames = 8, .num_threads = static_cast<int>(state.range(0))};
  for (auto _ : state) model.forward(x, y.mutable_view(), options);
}
BENCHMARK(SmallForward)->Arg(1)->Arg(2)->Unit(benchmark::kMicrosecond)->UseRealTime();

/// Preparing weights that are in memory: bytes of weights a second. Argument: channels.
void Pack(benchmark::State& state) {
  const auto config = config_of(8, state.range(0) / 8);
  const auto model = TransformerTemporalModel::from_config(config, 1);
  for (auto _ : state)
    benchmark::DoNotOptimize(TransformerTemporalModel::from_state_dict(config, model.parameters(), nullptr));
  state.SetBytesProcessed(state.iterations() * bytes_of(model));
}
BENCHMARK(Pack)->Arg(320)->Arg(640)->Arg(1280)->Unit(benchmark::kMillisecond)->UseRealTime();

/// Copying as many bytes within memory, to hold Pack to.
void Copy(benchmark::State& state) {
  const auto model = TransformerTemporalModel::from_config(config_of(8, state.range(0) / 8), 1);
  const std::vector<char> from(static_cast<std::size_t>(bytes_of(model)), 1);
  std::vector<char> to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * bytes_of(model));
}
BENCHMARK(Copy)->Arg(320)->Arg(640)->Arg(1280)->Unit(benchmark::kMillisecond)->UseRealTime();

/// A module's folder on disk, in the system's cache.
class Folder : public benchmark::Fixture {
 public:
  void SetUp(benchmark::State& state) override {
    path_ =
        std::filesystem::temp_directory_path() / ("kineograph_engine_bench_" + std::to_string(std::random_device{}()));
    const auto model = TransformerTemporalModel::from_config(config_of(8, state.range(0) / 8), 1);
    bytes_ = bytes_of(model);
    model.save_pretrained(path_);
  }
  void TearDown(benchmark::State&) override { std::filesystem::remove_all(path_); }

 protected:
  std::filesystem::path path_;
  std::int64_t bytes_ = 0;
};

/// from_pretrained: opened, checked and packed.
BENCHMARK_DEFINE_F(Folder, Open)(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(TransformerTemporalModel::from_pretrained(path_));
  state.SetBytesProcessed(state.iterations() * bytes_);
}
BENCHMARK_REGISTER_F(Folder, Open)->Arg(320)->Arg(1280)->Unit(benchmark::kMillisecond)->UseRealTime();

/// Reading the same file into memory that is new, as a program would that only wants its bytes.
BENCHMARK_DEFINE_F(Folder, Read)(benchmark::State& state) {
  const auto file = path_ / "diffusion_pytorch_model.safetensors";
  for (auto _ : state) {
    std::vector<char> bytes(std::filesystem::file_size(file));
    std::ifstream(file, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    benchmark::DoNotOptimize(bytes.data());
  }
  state.SetBytesProcessed(state.iterations() * bytes_);
}
BENCHMARK_REGISTER_F(Folder, Read)->Arg(320)->Arg(1280)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace kineograph

BENCHMARK_MAIN();

// Bytes that a forward allocates, counted at operator new: at most 16 MB a thread beyond input, output and packed
// weights, and nothing at all once it has run before; and what a backward allocates. Alone in its program, because it
// replaces operator new.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "kineograph/kineograph.h"

namespace {

std::atomic<std::size_t> live{0}, most{0}, calls{0};

// The size is kept in front of the block, at a distance that keeps its alignment.
void* allocate(std::size_t size, std::size_t alignment) {
  alignment = std::max<std::size_t>(alignment, 16);
  auto* block = static_cast<char*>(std::aligned_alloc(alignment, (size + 2 * alignment - 1) / alignment * alignment));
  if (block == nullptr) throw std::bad_alloc();
  *reinterpret_cast<std::size_t*>(block + alignment - sizeof(std::size_t)) = size;
  const std::size_t now = live += size;
  for (std::size_t before = most; before < now && !most.compare_exchange_weak(before, now);) continue;
  ++calls;
  return block + alignment;
}

void release(void* p, std::size_t alignment) {
  if (p == nullptr) return;
  alignment = std::max<std::size_t>(alignment, 16);
  live -= *reinterpret_cast<std::size_t*>(static_cast<char*>(p) - sizeof(std::size_t));
  std::free(static_cast<char*>(p) - alignment);
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size, 16); }
void* operator new[](std::size_t size) { return allocate(size, 16); }
void* operator new(std::size_t size, std::align_val_t a) { return allocate(size, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t size, std::align_val_t a) { return allocate(size, static_cast<std::size_t>(a)); }
void operator delete(void* p) noexcept { release(p, 16); }
void operator delete[](void* p) noexcept { release(p, 16); }
void operator delete(void* p, std::size_t) noexcept { release(p, 16); }
void operator delete[](void* p, std::size_t) noexcept { release(p, 16); }
void operator delete(void* p, std::align_val_t a) noexcept { release(p, static_cast<std::size_t>(a)); }
void operator delete[](void* p, std::align_val_t a) noexcept { release(p, static_cast<std::size_t>(a)); }
void operator delete(void* p, std::size_t, std::align_val_t a) noexcept { release(p, static_cast<std::size_t>(a)); }
void operator delete[](void* p, std::size_t, std::align_val_t a) noexcept { release(p, static_cast<std::size_t>(a)); }

namespace kineograph {
namespace {

constexpr std::size_t kLimit = 16'000'000;  // bytes a thread

TransformerTemporalConfig config_of(std::int64_t channels, std::int64_t heads, std::int64_t head_dim) {
  TransformerTemporalConfig config;
  config.num_attention_heads = heads;
  config.attention_head_dim = head_dim;
  config.in_channels = channels;
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = 64;
  return config;
}

Tensor ramp(const Shape& shape) {
  Tensor x(DType::f32, shape);
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data_as<float>()[i] = static_cast<float>(i % 97) * 0.03f - 1.4f;
  return x;
}

struct Extents {
  std::int64_t channels, heads, head_dim, videos, frames, height, width;
};

/// Bytes beyond what was there before, at the worst moment of a model's first forward.
std::size_t first_forward(const TransformerTemporalModel& model, const Tensor& x, const ForwardOptions& options) {
  Tensor y(DType::f32, x.shape());
  (void)model.workspace_bytes(x, options);  // packs the weights
  const std::size_t before = live;
  most = before;
  model.forward(x, y.mutable_view(), options);
  return most - before;
}

// Widths of published models; 32 frames; planes large and small, odd and even.
TEST(Memory, StaysBelowItsLimitAtAnySize) {
  for (const auto& instruction_set : instruction_sets("cpu"))
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const Extents e : {Extents{320, 8, 40, 1, 32, 4, 8}, Extents{1280, 8, 160, 1, 32, 3, 3},
                              Extents{1280, 20, 64, 1, 24, 5, 9}, Extents{32, 1, 32, 2, 16, 96, 160}}) {
        if (e.channels > 1000 && instruction_set != instruction_sets("cpu").front()) continue;  // slow to draw
        const auto model = TransformerTemporalModel::from_config(config_of(e.channels, e.heads, e.head_dim), 1,
                                                                 {.compute_dtype = dtype, .isa = instruction_set});
        const Tensor x = ramp({e.videos * e.frames, e.channels, e.height, e.width});
        for (const int threads : {1, 2})
          EXPECT_LE(first_forward(model, x, {.num_frames = e.frames, .num_threads = threads}),
                    kLimit * static_cast<std::size_t>(threads))
              << instruction_set << " " << name_of(dtype) << ", C = " << e.channels << ", F = " << e.frames;
      }
}

// Beyond the weights, packed in both directions, and gradients of everything.
TEST(Memory, ABackwardStaysBelowItsLimitAtAnySize) {
  constexpr std::size_t kBackwardLimit = 64'000'000;  // bytes a thread
  for (const auto& instruction_set : instruction_sets("cpu"))
    for (const Extents e : {Extents{320, 8, 40, 1, 32, 4, 8}, Extents{640, 8, 80, 1, 16, 8, 16},
                            Extents{1280, 8, 160, 1, 32, 3, 3}, Extents{32, 1, 32, 2, 16, 96, 160}}) {
      if (e.channels > 1000 && instruction_set != instruction_sets("cpu").front()) continue;  // slow to draw
      const auto model = TransformerTemporalModel::from_config(config_of(e.channels, e.heads, e.head_dim), 1,
                                                               {.isa = instruction_set});
      const Tensor x = ramp({e.videos * e.frames, e.channels, e.height, e.width});
      Tensor d_x(DType::f32, x.shape());
      std::vector<Tensor> values;
      Gradients wanted;
      wanted.hidden_states = d_x.mutable_view();
      for (const Parameter& parameter : model.parameters()) {
        if (parameter.name.ends_with(".pe")) continue;
        values.emplace_back(DType::f32, parameter.value.shape());
        wanted.parameters.push_back({parameter.name, values.back().mutable_view()});
      }
      (void)model.workspace_bytes(x, {.num_frames = e.frames});                       // packs the weights
      std::size_t packed = static_cast<std::size_t>(2 * 4 * model.num_parameters());  // by the first, for all
      for (const int threads : {1, 8}) {
        const std::size_t before = live;
        most = before;
        model.backward(x, x, wanted, {.num_frames = e.frames, .num_threads = threads});
        EXPECT_LE(most - before, packed + kBackwardLimit * static_cast<std::size_t>(threads))
            << instruction_set << ", C = " << e.channels << ", F = " << e.frames << ", " << threads << " threads";
        packed = 0;
      }
    }
}

TEST(Memory, IsWhatWorkspaceBytesSays) {
  const auto model = TransformerTemporalModel::from_config(config_of(320, 8, 40), 1);
  const Tensor x = ramp({16, 320, 16, 16});
  const ForwardOptions options{.num_frames = 16, .num_threads = 1};
  const double said = static_cast<double>(model.workspace_bytes(x, options));
  const double used = static_cast<double>(first_forward(model, x, options));
  EXPECT_NEAR(used / said, 1.0, 0.05);
}

// A small file may ask for many layers of very many positions.
TEST(Memory, PositionsTakeOneTableWhateverTheLayers) {
  TransformerTemporalConfig config = config_of(2, 1, 2);
  config.norm_num_groups = 1;
  config.num_layers = 32;
  config.num_positional_embeddings = 60'000;
  const std::size_t table = 60'000 * 2 * sizeof(float);
  const std::size_t before = live;
  most = before;
  const auto model = TransformerTemporalModel::from_config(config, 1);
  EXPECT_LE(most - before, 8 * table) << "drawn";  // 32 tables, were there one a layer
  std::vector<Parameter> without;
  for (const Parameter& parameter : model.parameters())
    if (!parameter.name.ends_with(".pe")) without.push_back(parameter);
  const std::size_t then = live;
  most = then;
  const auto same = TransformerTemporalModel::from_state_dict(config, without, nullptr);
  EXPECT_LE(most - then, 8 * table) << "computed";
  const Tensor x = ramp({4, 2, 2, 2});
  const Tensor a = model.forward(x, {.num_frames = 4}).sample, b = same.forward(x, {.num_frames = 4}).sample;
  for (std::int64_t i = 0; i < a.numel(); ++i) ASSERT_EQ(a.data_as<float>()[i], b.data_as<float>()[i]);
}

TEST(Memory, ASteadyStreamOfCallsAllocatesNothing) {
  const auto model = TransformerTemporalModel::from_config(config_of(32, 2, 16), 1);
  const Tensor x = ramp({16, 32, 8, 8});
  Tensor y(DType::f32, x.shape());
  const auto allocations = [&](int threads, int forwards) {
    const std::size_t before = calls;
    for (int i = 0; i < forwards; ++i) model.forward(x, y.mutable_view(), {.num_frames = 16, .num_threads = threads});
    return calls - before;
  };
  allocations(1, 3);
  EXPECT_EQ(allocations(1, 1000), 0u);
  // Two threads need more workspaces, of ten blocks each, whenever they first happen to overlap: four at most.
  allocations(2, 3);
  EXPECT_LE(allocations(2, 1000), 40u);
}

/// The most bytes that a model's first forward holds beyond its input and output.
template <class Model, class Options>
std::size_t most_of(const Model& model, const Tensor& x, const Options& options) {
  Tensor y(DType::f32, x.shape());
  const std::size_t before = live;
  most = before;
  model.forward(x, y.mutable_view(), options);
  return most - before;
}

// 16,384 pixels attend to each other: their scores alone would be a gigabyte.
TEST(Memory, AttentionOverPixelsHoldsNoSquareOfThem) {
  Transformer2DConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.in_channels = 32;
  config.cross_attention_dim = 16;
  const auto model = Transformer2DModel::from_config(config, 1, {.engine = "cpu"});
  const Tensor x = ramp({2, 32, 128, 128}), text = ramp({2, 77, 16});
  Transformer2DForwardOptions options;
  options.encoder_hidden_states = text;
  options.num_threads = 2;
  const std::size_t said = model.workspace_bytes(x, options), held = most_of(model, x, options);
  EXPECT_LE(said, 32'000'000u);
  EXPECT_LE(held, said + 1'000'000) << "of packed text and small tables, beyond the " << said << " that it says";
}

TEST(Memory, AVideosStreamIsWhatSpatioTemporalModelsHold) {
  TransformerSpatioTemporalConfig config;
  config.num_attention_heads = 4;
  config.attention_head_dim = 8;
  config.in_channels = 32;
  config.cross_attention_dim = 16;
  const auto model = TransformerSpatioTemporalModel::from_config(config, 1, {.engine = "cpu"});
  const Tensor x = ramp({2 * 6, 32, 48, 64}), text = ramp({2, 1, 16});
  TransformerSpatioTemporalForwardOptions options;
  options.num_frames = 6;
  options.encoder_hidden_states = text;
  options.num_threads = 2;
  const std::size_t said = model.workspace_bytes(x, options), held = most_of(model, x, options);
  EXPECT_LE(said, 32'000'000u);
  EXPECT_LE(held, said + 1'000'000) << "of packed text and small tables, beyond the " << said << " that it says";
}

}  // namespace
}  // namespace kineograph

// Views that no memory can be behind are refused by name, before anything reads them.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

TransformerTemporalModel model_of(const std::string& engine) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 4;
  config.in_channels = 8;
  config.norm_num_groups = 4;
  return TransformerTemporalModel::from_config(config, 1, {.engine = engine});
}

class Views : public ::testing::TestWithParam<std::string> {
 protected:
  TransformerTemporalModel model_ = model_of(GetParam());
};

TEST_P(Views, ViewsWithoutMemoryAreRefused) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  alignas(64) static float memory[1024];
  const auto misaligned = reinterpret_cast<const float*>(reinterpret_cast<const char*>(memory) + 1);
  const auto at = [](const void* data, Shape shape) { return TensorView(data, DType::f32, shape); };
  for (const auto& [view, found] : {
           std::pair{at(nullptr, {1, 8, 2, 2}), "a null pointer"},
           {at(misaligned, {1, 8, 2, 2}), "between two elements"},
           {at(memory, {-1, 8, 2, 2}), "[-1, 8, 2, 2]"},
           {at(memory, {1, 8, -2, -2}), "[1, 8, -2, -2]"},
           {at(memory, {kHuge, 8, 2, 2}), "9223372036854775807"},
           {at(memory, {1, 8, kHuge / 4, 2}), "[1, 8, 2305843009213693951, 2]"},
           {TensorView(memory, DType::f32, {1, 8, 2, 2}, {1, kHuge, 2, 1}), "strides"},
           {TensorView(memory, DType::f32, {1, 8, 2, 2}, {1, 2}), "a stride for each of 4 axes"},
       }) {
    try {
      (void)model_.forward(view);
      ADD_FAILURE() << "took " << found;
    } catch (const ArgumentError& error) {
      EXPECT_EQ(error.where(), "hidden_states");
      EXPECT_NE(std::string(error.what()).find(found), std::string::npos) << error.what();
    }
  }
  const MutableTensorView nowhere(nullptr, DType::f32, {1, 8, 2, 2});
  EXPECT_THROW(model_.forward(at(memory, {1, 8, 2, 2}), nowhere), ArgumentError);
  EXPECT_THROW(model_.backward(at(memory, {1, 8, 2, 2}), at(nullptr, {1, 8, 2, 2}), {}), ArgumentError);
  Gradients gradients;
  gradients.hidden_states = nowhere;
  EXPECT_THROW(model_.backward(at(memory, {1, 8, 2, 2}), at(memory + 512, {1, 8, 2, 2}), gradients), ArgumentError);
  ForwardOptions options;
  options.encoder_hidden_states = at(nullptr, {1, 3, 8});
  EXPECT_THROW((void)model_.forward(at(memory, {1, 8, 2, 2}), options), ArgumentError);
  EXPECT_EQ(model_.forward(at(nullptr, {0, 8, 2, 2})).sample.numel(), 0) << "no elements need no memory";
}

INSTANTIATE_TEST_SUITE_P(Engines, Views, ::testing::ValuesIn(engines()));

}  // namespace
}  // namespace kineograph

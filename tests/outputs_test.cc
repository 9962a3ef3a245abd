// Memory that forward and backward are asked to write to.
#include <gtest/gtest.h>

#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

class Outputs : public testing::Test {
 protected:
  static TransformerTemporalConfig config() {
    TransformerTemporalConfig config;
    config.num_attention_heads = 2;
    config.attention_head_dim = 4;
    config.in_channels = 8;
    config.norm_num_groups = 2;
    return config;
  }
  void backward(const Gradients& wanted) const { model_.backward(x_, x_, wanted, {.num_frames = 2}); }
  MutableTensorView strided(const Dims& strides) { return {out_.data(), DType::f32, x_.shape(), strides}; }

  TransformerTemporalModel model_ = TransformerTemporalModel::from_config(config(), 1);
  Tensor x_{DType::f32, {2, 8, 3, 3}}, out_{DType::f32, {4096}};
};

TEST_F(Outputs, MayHaveAnyStridesWithAPlaceForEachElement) {
  EXPECT_NO_THROW(model_.forward(x_, strided({72, 9, 3, 1}), {.num_frames = 2}));
  EXPECT_NO_THROW(model_.forward(x_, strided({72, 1, 24, 8}), {.num_frames = 2}));  // channels last
  EXPECT_NO_THROW(model_.forward(x_, strided({500, 60, 7, 2}), {.num_frames = 2}));
}

TEST_F(Outputs, MayNotOverlapThemselves) {
  for (const Dims& strides : {Dims{0, 9, 3, 1}, Dims{72, 0, 3, 1}, Dims{72, 9, 3, 0}, Dims{72, 9, 2, 1},
                              Dims{71, 9, 3, 1}, Dims{1, 1, 1, 1}}) {
    EXPECT_THROW(model_.forward(x_, strided(strides), {.num_frames = 2}), ArgumentError) << to_string(strides);
    Gradients wanted;
    wanted.hidden_states = strided(strides);
    EXPECT_THROW(backward(wanted), ArgumentError) << to_string(strides);
  }
}

TEST_F(Outputs, TwoGradientsMayNotShareMemory) {
  const MutableTensorView first(static_cast<float*>(out_.data()), {8});
  Gradients wanted;
  wanted.parameters = {{"norm.weight", first}, {"norm.bias", first}};
  EXPECT_THROW(backward(wanted), ArgumentError);
  wanted.parameters = {{"norm.weight", first}, {"norm.bias", {static_cast<float*>(out_.data()) + 7, {8}}}};
  EXPECT_THROW(backward(wanted), ArgumentError);
  wanted.parameters = {{"norm.weight", first}, {"norm.weight", {static_cast<float*>(out_.data()) + 8, {8}}}};
  EXPECT_THROW(backward(wanted), ArgumentError) << "a parameter twice";
  wanted.parameters = {{"norm.weight", first}};
  wanted.hidden_states = strided({72, 9, 3, 1});
  EXPECT_THROW(backward(wanted), ArgumentError);
  wanted.hidden_states = {static_cast<float*>(out_.data()) + 8, x_.shape()};
  EXPECT_NO_THROW(backward(wanted));
}

}  // namespace
}  // namespace kineograph

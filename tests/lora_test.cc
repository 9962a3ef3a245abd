// LoRAs on a model in memory: what is taken off leaves no trace.
#include "kineograph/lora.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <limits>

#include "calls.h"
#include "folder.h"

namespace kineograph {
namespace {

using testing::same;

class LoraTest : public FolderTest {
 protected:
  /// A PEFT-style file for attn1.to_q of the middle's module, of rank 2, all elements `value`.
  Lora lora(float value, const std::string& module = "mid_block.motion_modules.0") {
    Tensor down(DType::f32, {2, 32}), up(DType::f32, {32, 2});
    for (std::int64_t i = 0; i < down.numel(); ++i) down.data_as<float>()[i] = up.data_as<float>()[i] = value;
    const std::string key = "unet." + module + ".transformer_blocks.0.attn1.to_q.lora_";
    const auto path = folder_ / ("lora" + std::to_string(count_++) + ".safetensors");
    save_safetensors(path, {{key + "A.weight", down}, {key + "B.weight", up}});
    return Lora::open(path);
  }

  static TransformerTemporalModel base() {
    TransformerTemporalConfig config;
    config.num_attention_heads = 4;
    config.attention_head_dim = 8;
    config.in_channels = 32;
    return TransformerTemporalModel::from_config(config, 1);
  }

  static Tensor answer(const TransformerTemporalModel& model) {
    Tensor x(DType::f32, {4, 32, 3, 2});
    for (std::int64_t i = 0; i < x.numel(); ++i) x.data_as<float>()[i] = static_cast<float>((i * 37) % 101) / 50.0f - 1;
    return model.forward(x, {.num_frames = 4}).sample;
  }

  int count_ = 0;
};

TEST_F(LoraTest, ComesAndGoesExactly) {
  AdaptedModel adapted(base(), "mid_block.motion_modules.0");
  const Tensor plain = answer(adapted.model());
  adapted.add_lora("pan", lora(0.5f));
  const Tensor panned = answer(adapted.model());
  EXPECT_FALSE(same(plain, panned));
  adapted.add_lora("zoom", lora(0.25f), -1.5);
  EXPECT_FALSE(same(panned, answer(adapted.model())));
  adapted.set_scale("pan", 0.0);
  adapted.set_scale("pan", 1.0);
  adapted.remove_lora("zoom");
  EXPECT_TRUE(same(panned, answer(adapted.model())));
  adapted.remove_lora("pan");
  EXPECT_TRUE(same(plain, answer(adapted.model())));
}

TEST_F(LoraTest, IsTheSumThatItSays) {
  AdaptedModel adapted(base(), "mid_block.motion_modules.0");
  adapted.add_lora("pan", lora(0.5f), 2.0);
  const TransformerTemporalModel plain = base();
  const auto& before = plain.parameters();
  const auto& after = adapted.model().parameters();
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool changed = before[i].name == "transformer_blocks.0.attn1.to_q.weight";
    const auto* a = before[i].value.data_as<float>();
    const auto* b = after[i].value.data_as<float>();
    for (std::int64_t k = 0; k < before[i].value.numel(); ++k)  // 2 * (0.5 * 0.5 + 0.5 * 0.5)
      EXPECT_EQ(b[k], static_cast<float>(static_cast<double>(a[k]) + (changed ? 1.0 : 0.0))) << before[i].name;
  }
}

TEST_F(LoraTest, RefusesOtherShapesAndStaysAsItWas) {
  AdaptedModel adapted(base(), "mid_block.motion_modules.0");
  const Tensor plain = answer(adapted.model());
  const std::string key = "mid_block.motion_modules.0.transformer_blocks.0.";
  const auto stray = [&](const std::string& layer, std::int64_t width) {
    Tensor down(DType::f32, {2, width}), up(DType::f32, {width, 2});
    const auto path = folder_ / ("stray" + std::to_string(count_++) + ".safetensors");
    save_safetensors(path, {{key + layer + ".lora_A.weight", down}, {key + layer + ".lora_B.weight", up}});
    return Lora::open(path);
  };
  EXPECT_THROW(adapted.add_lora("large", stray("attn1.to_q", 6400)), CheckpointError);
  EXPECT_THROW(adapted.add_lora("small", stray("attn1.to_q", 8)), CheckpointError);
  EXPECT_THROW(adapted.add_lora("nowhere", stray("attn7.to_q", 32)), CheckpointError);
  EXPECT_THROW(adapted.add_lora("infinite", lora(0.5f), std::numeric_limits<double>::infinity()), ArgumentError);
  EXPECT_TRUE(same(plain, answer(adapted.model())));
  adapted.add_lora("large", lora(0.5f));  // the name was not taken
  EXPECT_THROW(adapted.set_scale("large", std::numeric_limits<double>::quiet_NaN()), ArgumentError);
  adapted.set_scale("large", 0.0);
  EXPECT_TRUE(same(plain, answer(adapted.model())));
  const Tensor weight(DType::f32, {32, 32});
  EXPECT_THROW(merged_weight({{stray("attn1.to_q", 6400), 1.0}}, "mid_block.motion_modules.0",
                             "transformer_blocks.0.attn1.to_q.weight", weight, DType::f32),
               CheckpointError);
}

TEST_F(LoraTest, SumsTheTermsInTheirOrder) {
  // Ranks and widths that are no multiples of what the loops take at a time.
  const std::int64_t rows = 5, rank = 7, columns = 300;
  Tensor down(DType::f32, {rank, columns}), up(DType::f32, {rows, rank}), weight(DType::f32, {rows, columns});
  std::uint32_t state = 1;
  for (Tensor* tensor : {&down, &up, &weight})
    for (std::int64_t i = 0; i < tensor->numel(); ++i)
      tensor->data_as<float>()[i] = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
  const std::string key = "mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q";
  save_safetensors(folder_ / "a.safetensors", {{key + ".lora_A.weight", down}, {key + ".lora_B.weight", up}});
  const Tensor merged = merged_weight({{Lora::open(folder_ / "a.safetensors"), -0.75}}, "mid_block.motion_modules.0",
                                      "transformer_blocks.0.attn1.to_q.weight", weight, DType::f32);
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t column = 0; column < columns; ++column) {
      double sum = weight.data_as<float>()[row * columns + column];
      for (std::int64_t r = 0; r < rank; ++r)
        sum += -0.75 * up.data_as<float>()[row * rank + r] * down.data_as<float>()[r * columns + column];
      ASSERT_EQ(merged.data_as<float>()[row * columns + column], static_cast<float>(sum)) << row << ", " << column;
    }
}

TEST_F(LoraTest, RoundsOnceTo16Bits) {
  // 1 + 2^-8 + 2^-30 is just above the middle between two bf16 numbers; by way of f32 it would be the middle itself.
  Tensor value(DType::f64, {2});
  value.data_as<double>()[0] = 1 + 0x1p-8 + 0x1p-30;
  value.data_as<double>()[1] = -(1 + 0x1p-11 + 0x1p-40);
  EXPECT_EQ(convert(convert(value, DType::bf16), DType::f32).data_as<float>()[0], 1 + 0x1p-7f);
  EXPECT_EQ(convert(convert(value, DType::f16), DType::f32).data_as<float>()[1], -(1 + 0x1p-10f));
}

TEST_F(LoraTest, RefusesWhatDoesNotFit) {
  AdaptedModel adapted(base(), "mid_block.motion_modules.0");
  adapted.add_lora("pan", lora(0.5f));
  EXPECT_THROW(adapted.add_lora("pan", lora(0.5f)), ArgumentError);
  EXPECT_THROW(adapted.add_lora("else", lora(0.5f, "up_blocks.0.motion_modules.0")), CheckpointError);
  EXPECT_THROW(adapted.set_scale("zoom", 1.0), ArgumentError);
  EXPECT_THROW(adapted.remove_lora("zoom"), ArgumentError);
  Tensor stray(DType::f32, {2});
  save_safetensors(folder_ / "stray.safetensors", {{"some.weight", stray}});
  EXPECT_THROW(Lora::open(folder_ / "stray.safetensors"), CheckpointError);
}

}  // namespace
}  // namespace kineograph

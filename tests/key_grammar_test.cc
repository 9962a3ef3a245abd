// Names of weights as training scripts and trainers write them: every way of writing one leads to one place.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/layouts.h"
#include "model/lora_keys.h"

namespace kineograph::model {
namespace {

const std::vector<std::string> kPrefixes = {"",
                                            "module.",
                                            "_orig_mod.",
                                            "unet.",
                                            "module._orig_mod.",
                                            "_orig_mod.module.module.",
                                            "unet.module.",
                                            "model.diffusion_model.",
                                            "state_dict.unet._orig_mod.",
                                            "motion_modules.",
                                            "anything.at_all.0."};

TEST(Keys, WhateverStandsBeforeAPathIsAPrefix) {
  struct Known {
    const char *key, *module, *parameter;
    Layout layout;
  };
  for (const Known& known : {
           Known{"down_blocks.0.motion_modules.1.norm.weight", "down_blocks.0.motion_modules.1", "norm.weight",
                 Layout::motion_adapter},
           {"mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_q.weight",
            "mid_block.motion_modules.0", "transformer_blocks.0.attn2.to_q.weight", Layout::animatediff},
           {"up_blocks.2.temporal_attentions.0.transformer_blocks.0.attention_blocks.0.pos_encoder.positional_encoding",
            "up_blocks.2.motion_modules.0", "transformer_blocks.0.attn1.pos_encoder.pe", Layout::animatediff},
           {"down_blocks.1._orig_mod.motion_modules.0.module.transformer_blocks.0.attn1.to_q.base_layer.weight",
            "down_blocks.1.motion_modules.0", "transformer_blocks.0.attn1.to_q.weight", Layout::motion_adapter},
           {"transformer_in.proj_in.bias", "transformer_in", "proj_in.bias", Layout::unet_3d},
           {"input_blocks.4.2.proj_out.weight", "down_blocks.1.temp_attentions.0", "proj_out.weight",
            Layout::modelscope},
       })
    for (const std::string& prefix : kPrefixes) {
      const auto place = place_of(prefix + known.key);
      ASSERT_TRUE(place) << prefix + known.key;
      EXPECT_EQ(place->prefix, prefix.substr(0, prefix.size() - (prefix.empty() ? 0 : 1)));
      EXPECT_EQ(place->module, known.module);
      EXPECT_EQ(place->parameter, known.parameter);
      EXPECT_EQ(place->layout, known.layout);
    }
}

TEST(Keys, OtherTransformersOfAUNetAreNoModuleByItself) {
  for (const char* key : {"down_blocks.0.attentions.0.norm.weight", "down_blocks.0.attentions.0.proj_in.weight",
                          "unet.mid_block.attentions.0.transformer_blocks.0.norm1.weight", "layers.0.norm.weight",
                          "conv_in.weight", "", ".", "norm", "down_blocks", "down_blocks.0.motion_modules"})
    EXPECT_FALSE(place_of(key)) << key;
  EXPECT_EQ(place_of("student.core.norm.weight")->prefix, "student.core");
}

TEST(Keys, LongNamesAreNoPaths) {
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "down_blocks.";
  EXPECT_FALSE(place_of(deep));
  EXPECT_FALSE(read_lora_key(deep + "lora_A"));
}

TEST(Keys, EveryFormOfALoraNamesOneWeight) {
  const std::string ours = "down_blocks.0.motion_modules.1.transformer_blocks.0.attn1",
                    theirs =
                        "down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.0";
  struct Form {
    std::string down;
    const char* adapter;
  };
  std::string kohya = "lora_unet_" + theirs;
  std::replace(kohya.begin(), kohya.end(), '.', '_');
  for (const Form& form :
       std::vector<Form>{{theirs + ".processor.to_out_lora.down.weight", ""},
                         {"unet." + ours + ".processor.to_out_lora.down.weight", ""},
                         {"unet." + ours + ".to_out.0.lora.down.weight", ""},
                         {ours + ".to_out.0.lora_linear_layer.down.weight", ""},
                         {ours + ".to_out.0.lora_down.weight", ""},
                         {"base_model.model." + ours + ".to_out.0.lora_A.weight", ""},
                         {"base_model.model.unet." + ours + ".to_out.0.lora_A.zoom_in.weight", "zoom_in"},
                         {theirs + ".to_out.0.lora_A.default.weight", "default"},
                         {ours + ".to_out.0.lora_A", ""},
                         {kohya + "_to_out_0.lora_down.weight", ""},
                         {kohya + "_processor_to_out.lora_down.weight", ""},
                         {"state_dict.lora." + kohya + "_to_out_0.lora_down.weight", ""}}) {
    const auto key = read_lora_key(form.down);
    ASSERT_TRUE(key) << form.down;
    EXPECT_EQ(key->part, LoraKey::Part::down);
    EXPECT_EQ(key->adapter, form.adapter);
    const auto place = lora_target(key->layer);
    ASSERT_TRUE(place) << form.down << " " << key->layer;
    EXPECT_EQ(place->module, "down_blocks.0.motion_modules.1");
    EXPECT_EQ(place->parameter, "transformer_blocks.0.attn1.to_out.0.weight") << form.down;
  }
}

TEST(Keys, WhatIsNoLowRankPairIsCalledByItsName) {
  const std::string layer = "mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q";
  for (const auto& [ending, kind] :
       std::vector<std::pair<std::string, std::string>>{{".lora_magnitude_vector.default.weight", "a DoRA"},
                                                        {".dora_scale", "a DoRA"},
                                                        {".hada_w1_a", "a LoHa"},
                                                        {".lokr_w1", "a LoKr"},
                                                        {".lora_B.bias", "a bias"},
                                                        {".diff_b", "a difference of biases"}}) {
    const auto key = read_lora_key(layer + ending);
    ASSERT_TRUE(key) << ending;
    EXPECT_EQ(key->part, LoraKey::Part::other);
    EXPECT_EQ(key->kind, kind);
    EXPECT_EQ(key->layer, layer);
  }
  EXPECT_EQ(read_lora_key(layer + ".alpha")->part, LoraKey::Part::alpha);
  EXPECT_FALSE(read_lora_key(layer + ".weight"));
  EXPECT_FALSE(lora_target("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"));
  EXPECT_FALSE(lora_target("lora_te_text_model_encoder_layers_0_mlp_fc1"));
}

}  // namespace
}  // namespace kineograph::model

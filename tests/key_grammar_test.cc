// Names of weights as training scripts and trainers write them: every way of writing one leads to one place.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
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

template <class Place, class Find>
void expect_own_name(const std::string& name, const std::optional<Place>& place, const Find& find) {
  if (!place) return;
  const std::string own = place->module.empty() ? place->parameter : place->module + "." + place->parameter;
  const auto again = find(own);
  ASSERT_TRUE(again) << name << " -> " << own;
  EXPECT_EQ(again->module, place->module) << name;
  EXPECT_EQ(again->parameter, place->parameter) << name;
  EXPECT_EQ(again->prefix, "") << name;
}

/// Two spellings of one place would be two tensors, of which a model takes one.
TEST(Keys, OfInventedNamesLeadToAPlaceWhoseOwnNameLeadsToIt) {
  const std::vector<std::string> words = {"down_blocks",
                                          "mid_block",
                                          "up_blocks",
                                          "transformer_in",
                                          "input_blocks",
                                          "middle_block",
                                          "output_blocks",
                                          "motion_modules",
                                          "temporal_attentions",
                                          "temp_attentions",
                                          "attentions",
                                          "temporal_transformer",
                                          "norm",
                                          "proj_in",
                                          "proj_out",
                                          "transformer_blocks",
                                          "temporal_transformer_blocks",
                                          "time_stack",
                                          "time_pos_embed",
                                          "time_mixer",
                                          "attention_blocks",
                                          "norms",
                                          "ff_norm",
                                          "attn1",
                                          "pos_encoder",
                                          "positional_encoding",
                                          "pe",
                                          "0",
                                          "1",
                                          "2",
                                          "4",
                                          "007",
                                          "module",
                                          "_orig_mod",
                                          "base_layer",
                                          "weight",
                                          "processor",
                                          "to_q",
                                          "to_out",
                                          "mot:on",
                                          ""};
  std::mt19937 random(1);
  std::size_t found = 0;
  for (int count = 0; count < 300000; ++count) {
    // Half of them begin as paths do.
    std::string name = random() % 2 == 0 ? "" : words[random() % 7] + "." + words[27 + random() % 5] + ".";
    for (std::size_t parts = 1 + random() % 7; parts > 0; --parts)
      name += words[random() % words.size()] + (parts > 1 ? "." : "");
    const auto temporal = place_of(name);
    found += temporal.has_value();
    expect_own_name(name, temporal, place_of);
    expect_own_name(name, lora_target(name), place_of);
    expect_own_name(name, spatial_place_of(name), spatial_place_of);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(found, 5000u);
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
                         {theirs + ".to_out.processor.0_lora.down.weight", ""},  // AnimateDiff-MotionDirector
                         {theirs + ".to_out.0.lora_down.weight", ""},            // the same, in its other format
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

/// AnimateDiff-MotionDirector puts ".processor" before a path's last component, whatever that is, and trains the
/// feed-forward, too.
TEST(Keys, OfAnimateDiffMotionDirectorLeadToTheFeedForwardToo) {
  const std::string block = "up_blocks.0.motion_modules.2.temporal_transformer.transformer_blocks.0.";
  for (const auto& [layer, parameter] : std::vector<std::pair<std::string, std::string>>{
           {"attention_blocks.1.processor.to_k_lora", "attn2.to_k"},
           {"attention_blocks.1.to_out.processor.0_lora", "attn2.to_out.0"},
           {"ff.net.0.processor.proj_lora", "ff.net.0.proj"},
           {"ff.net.processor.2_lora", "ff.net.2"}}) {
    const auto key = read_lora_key(block + layer + ".up.weight");
    ASSERT_TRUE(key) << layer;
    EXPECT_EQ(key->part, LoraKey::Part::up);
    const auto place = lora_target(key->layer);
    ASSERT_TRUE(place) << layer;
    EXPECT_EQ(place->module, "up_blocks.0.motion_modules.2");
    EXPECT_EQ(place->parameter, "transformer_blocks.0." + parameter + ".weight");
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

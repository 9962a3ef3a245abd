// Files and folders that people give: what is no checkpoint says what it is, what is chosen by name is what is read.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "folder.h"
#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

class CheckpointFiles : public FolderTest {
 protected:
  fs::path write(const std::string& name, const std::string& bytes) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }
  /// A module of `channels` under each of `prefixes`, whose proj_in.bias is `value`.
  fs::path write_modules(const std::string& name, const std::vector<std::pair<std::string, float>>& prefixes) {
    TransformerTemporalConfig config;
    config.num_attention_heads = 8;
    config.attention_head_dim = 4;
    config.in_channels = 32;
    const auto model = TransformerTemporalModel::from_config(config, 1);
    std::vector<std::pair<std::string, TensorView>> tensors;
    std::vector<Tensor> biases;
    biases.reserve(prefixes.size());
    for (const auto& [prefix, value] : prefixes)
      for (const Parameter& parameter : model.parameters()) {
        tensors.emplace_back(prefix + "mid_block.motion_modules.0." + parameter.name, parameter.value);
        if (parameter.name != "proj_in.bias") continue;
        Tensor& bias = biases.emplace_back(parameter.value.dtype(), parameter.value.shape());
        for (std::int64_t i = 0; i < bias.numel(); ++i) bias.data_as<float>()[i] = value;
        tensors.back().second = bias;
      }
    fs::create_directories((folder_ / name).parent_path());
    save_safetensors(folder_ / name, tensors);
    return folder_ / name;
  }
  static std::string message_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    ADD_FAILURE() << "was not refused";
    return {};
  }
  static float bias_of(const Checkpoint& checkpoint) {
    const std::vector<TemporalModule> modules = temporal_modules(checkpoint);
    EXPECT_EQ(modules.size(), 1u);
    for (const Parameter& parameter : modules.front().state_dict)
      if (parameter.name == "proj_in.bias") return *parameter.value.data_as<float>();
    return 0;
  }
};

TEST_F(CheckpointFiles, WhatIsNoCheckpointSaysWhatItIs) {
  const std::vector<std::array<std::string, 3>> known = {
      {"page.ckpt", "<!DOCTYPE html><html><body>Not found</body></html>", "a web page"},
      {"page.pt", "\n\n  <HTML>", "a web page"},
      {"error.pt", "<?xml version=\"1.0\"?><Error/>", "a web page"},
      {"pointer.ckpt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"},
      {"empty.ckpt", "", "an empty file"},
      {"model.gguf", std::string("GGUF\3\0\0\0", 8) + std::string(64, '\0'), "GGUF"},
      {"model.onnx", std::string("\x08\x08\x12\x07pytorch\x1a\x05") + "2.1.0" + std::string(64, 'x'), "ONNX"},
      {"plain.pkl", std::string("\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94\x8c\1a\x94K\1s.", 21), "torch.save did not write"},
      {"packed.tar.gz", "\x1f\x8b\x08" + std::string(64, '\1'), "compressed"},
      {"keras.h5", "\x89HDF\r\n\x1a\n" + std::string(64, '\1'), "HDF5"},
      {"config.txt", "{\"a\": 1, \"b\": 2}", "JSON"},
      {"message.pt", "Access to this resource was denied.", "a text"},
      {"short.safetensors", "abc", "8 bytes"}};
  for (const auto& [name, bytes, words] : known) {
    const std::string message = message_of([&, &name = name, &bytes = bytes] { Checkpoint::open(write(name, bytes)); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_NE(message.find(name), std::string::npos) << message;
  }
}

TEST_F(CheckpointFiles, FoldersAreSearchedByEveryName) {
  for (const char* name : {"diffusion_pytorch_model.safetensors", "model.safetensors"}) {
    const fs::path file = write_modules(std::string(name) + ".d/" + name, {{"", 1.0f}});
    EXPECT_EQ(bias_of(Checkpoint::open(file.parent_path())), 1.0f);
  }
  write_modules("variant/diffusion_pytorch_model.fp16.safetensors", {{"", 2.0f}});
  EXPECT_EQ(bias_of(Checkpoint::open(folder_ / "variant", {.variant = "fp16"})), 2.0f);
  EXPECT_NE(message_of([&] { Checkpoint::open(folder_ / "variant"); }).find("--variant fp16"), std::string::npos);
  write("pipeline/model_index.json", "{}");
  write_modules("pipeline/motion_adapter/diffusion_pytorch_model.safetensors", {{"", 1.0f}});
  write_modules("pipeline/unet/diffusion_pytorch_model.fp16.safetensors", {{"", 1.0f}});
  write("pipeline/scheduler/config.json", "{}");
  EXPECT_NE(message_of([&] { Checkpoint::open(folder_ / "pipeline"); }).find(": motion_adapter unet."),
            std::string::npos);
  write_modules("other/mm.safetensors", {{"", 1.0f}});
  EXPECT_NE(message_of([&] { Checkpoint::open(folder_ / "other"); }).find("mm.safetensors"), std::string::npos);
}

TEST_F(CheckpointFiles, ShardsOfVariantsHaveOldAndNewNames) {
  const std::string weights = "mid_block.motion_modules.0.norm.weight";
  for (const auto& [index, shard] :
       std::vector<std::pair<std::string, std::string>>{{"diffusion_pytorch_model.safetensors.index.fp16.json",
                                                         "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"},
                                                        {"diffusion_pytorch_model.safetensors.fp16.index.json",
                                                         "diffusion_pytorch_model-00001-of-00001.fp16.safetensors"},
                                                        {"diffusion_pytorch_model.fp16.safetensors.index.json",
                                                         "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"}})
    for (const std::string& named : {shard, std::string("diffusion_pytorch_model-00001-of-00001.safetensors"),
                                     std::string("diffusion_pytorch_model.fp16-00001-of-00001.safetensors")}) {
      fs::remove_all(folder_ / "m");
      write_modules("m/" + shard, {{"", 3.0f}});
      // The index names one tensor; the shard has more, as diffusers allows.
      write("m/" + index, R"({"weight_map":{")" + weights + R"(":")" + named + R"("}})");
      EXPECT_EQ(bias_of(Checkpoint::open(folder_ / "m", {.variant = "fp16"})), 3.0f) << index << " " << named;
    }
}

TEST_F(CheckpointFiles, SetsThatDifferAreNeverTakenInSilence) {
  const fs::path same = write_modules("same.safetensors", {{"unet.", 1.0f}, {"unet_ema.", 1.0f}});
  EXPECT_EQ(bias_of(Checkpoint::open(same)), 1.0f);
  const fs::path file = write_modules("ema.safetensors", {{"", 1.0f}, {"ema.model.", 2.0f}, {"state_dict.", 3.0f}});
  const std::string message = message_of([&] { temporal_modules(Checkpoint::open(file)); });
  for (const char* path : {"\n  . (1", "ema.model (1", "state_dict (1", "--select"})
    EXPECT_NE(message.find(path), std::string::npos) << message;
  EXPECT_THROW(load(Checkpoint::open(file)), CheckpointError);
  EXPECT_EQ(module_sets(Checkpoint::open(file)).size(), 3u);
  EXPECT_EQ(bias_of(Checkpoint::open(file, {.select = "ema"})), 2.0f);
  EXPECT_EQ(bias_of(Checkpoint::open(file, {.select = "ema.model"})), 2.0f);
  EXPECT_EQ(bias_of(Checkpoint::open(file, {.select = "state_dict"})), 3.0f);
  EXPECT_EQ(bias_of(Checkpoint::open(file, {.select = std::string(kRoot)})), 1.0f);
  EXPECT_NE(message_of([&] { Checkpoint::open(file, {.select = "em"}); }).find(" ema mid_block state_dict"),
            std::string::npos);
}

TEST_F(CheckpointFiles, ThousandsOfSetsAreRefusedAtOnce) {
  const Tensor empty(DType::f32, {1});
  std::vector<std::pair<std::string, TensorView>> tensors;
  for (int i = 0; i < 20'000; ++i)
    tensors.emplace_back("s" + std::to_string(i) + ".down_blocks.0.motion_modules.0.norm.weight", empty);
  save_safetensors(folder_ / "many.safetensors", tensors);
  EXPECT_NE(message_of([&] { temporal_modules(Checkpoint::open(folder_ / "many.safetensors")); }).find("at most 64"),
            std::string::npos);
}

TEST_F(CheckpointFiles, QuantisedModulesSayWhoQuantisedThem) {
  const Tensor vector(DType::f16, {32}), packed(DType::u8, {512, 1});
  const std::string module = "down_blocks.0.motion_modules.0.";
  save_safetensors(folder_ / "q.safetensors", {{module + "norm.weight", vector},
                                               {module + "proj_in.weight", packed},
                                               {module + "proj_in.weight.absmax", vector},
                                               {module + "transformer_blocks.0.ff.net.0.proj.weight", packed}});
  const Checkpoint checkpoint = Checkpoint::open(folder_ / "q.safetensors");
  EXPECT_NE(message_of([&] { load(checkpoint, "down_blocks.0.motion_modules.0"); }).find("bitsandbytes quantised"),
            std::string::npos);
}

TEST_F(CheckpointFiles, PartsOfOneModelUnderPathsOfTheirOwnAreOneSet) {
  const fs::path file = write_modules("a.safetensors", {{"encoder.", 1.0f}});
  const Checkpoint half = Checkpoint::open(file);
  std::vector<std::pair<std::string, TensorView>> tensors = half.tensors();
  for (const auto& [name, view] : half.tensors()) {
    std::string other = name;
    other.replace(0, std::string("encoder.mid_block").size(), "decoder.up_blocks.0");
    tensors.emplace_back(other, view);
  }
  save_safetensors(folder_ / "both.safetensors", tensors);
  EXPECT_EQ(temporal_modules(Checkpoint::open(folder_ / "both.safetensors")).size(), 2u);
}

TEST_F(CheckpointFiles, WhatHasNoModulesSaysWhatItSeemsToBe) {
  const Tensor matrix(DType::f32, {4, 4});
  const std::string layer = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q";
  const std::vector<std::pair<std::vector<std::string>, std::string>> known = {
      {{layer + ".lora_A.weight", layer + ".lora_B.weight"}, "a LoRA of rank 4 for 1 layers: merge it"},
      {{layer + ".qweight", layer + ".qzeros", layer + ".scales"}, "GPTQ"},
      {{layer + ".weight", layer + ".weight.absmax", layer + ".weight.quant_map"}, "bitsandbytes"},
      {{"text_model.encoder.layers.0.mlp.fc1.weight"}, "CLIP"}};
  for (const auto& [names, words] : known) {
    std::vector<std::pair<std::string, TensorView>> tensors;
    for (const std::string& name : names) tensors.emplace_back(name, matrix);
    save_safetensors(folder_ / "other.safetensors", tensors);
    const Checkpoint checkpoint = Checkpoint::open(folder_ / "other.safetensors");
    EXPECT_NE(other_contents(checkpoint).find(words), std::string::npos) << other_contents(checkpoint);
  }
}

}  // namespace
}  // namespace kineograph

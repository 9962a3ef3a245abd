// The program as a user runs it, for tests: a folder of one's own, bash, models and clips.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "folder.h"
#include "kineograph/kineograph.h"
#include "noise.h"

namespace kineograph {

namespace fs = std::filesystem;

struct Result {
  int code;
  std::string out, err;
};

inline std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class ProgramTest : public FolderTest {
 protected:
  // Runs a bash script in the test's folder with the program as `kineograph`.
  Result sh(const std::string& script) const {
    std::ofstream(folder_ / "script") << "set -o pipefail; cd '" << folder_.string() << "'; kineograph() { '"
                                      << KINEOGRAPH_PROGRAM << "' \"$@\"; }\n"
                                      << script << "\n";
    const std::string base = folder_.string();
    const int status =
        std::system(("bash '" + base + "/script' >'" + base + "/out' 2>'" + base + "/err' </dev/null").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, content(folder_ / "out"), content(folder_ / "err")};
  }

  void make_model(const std::string& name, const TransformerTemporalConfig& config) const {
    TransformerTemporalModel::from_config(config, 1).save_pretrained(folder_ / name);
  }

  static TransformerTemporalConfig small_config(std::int64_t channels) {
    TransformerTemporalConfig config;
    config.num_attention_heads = 2;
    config.attention_head_dim = 4;
    config.in_channels = channels;
    config.norm_num_groups = 4;
    return config;
  }

  Tensor load(const std::string& name, const std::string& tensor) const {
    const Checkpoint file = Checkpoint::open(folder_ / name);
    return convert(file.find(tensor), file.find(tensor).dtype());
  }

  // Two videos of three frames and a model for them.
  void make_clip_and_model() const {
    make_model("module", small_config(8));
    save_safetensors(folder_ / "clip.safetensors", {{"hidden_states", noise({6, 8, 3, 2})}});
  }

  // A y4m clip of `frames` frames of 20 x 12, and a model for --patch 4 that gives its input back.
  void make_video_and_identity(int frames) const {
    std::ofstream video(folder_ / "clip.y4m", std::ios::binary);
    video << "YUV4MPEG2 W20 H12 F8:1 Ip A1:1 C420jpeg\n";
    std::mt19937 random(3);
    for (int f = 0; f < frames; ++f) {
      video << "FRAME\n";
      for (int i = 0; i < 20 * 12 * 3 / 2; ++i) video.put(static_cast<char>(random()));
    }
    video.close();
    make_identity("identity", small_config(48));
  }

  // A model for restore --patch 4 of noise, flicker and both that gives its input back.
  void make_restoring_identity(const std::string& name) const {
    TransformerTemporalConfig config = small_config(48);
    config.norm_type = NormType::ada_norm_zero;
    config.num_embeds_ada_norm = 3;
    make_identity(name, config);
  }

  void make_identity(const std::string& name, const TransformerTemporalConfig& config) const {
    const auto model = TransformerTemporalModel::from_config(config, 1);
    const Tensor zero_weight(DType::f32, {48, 8}), zero_bias(DType::f32, {48});
    std::vector<Parameter> parameters = model.parameters();
    for (Parameter& parameter : parameters) {
      if (parameter.name == "proj_out.weight") parameter.value = zero_weight;
      if (parameter.name == "proj_out.bias") parameter.value = zero_bias;
    }
    TransformerTemporalModel::from_state_dict(config, parameters, nullptr).save_pretrained(folder_ / name);
  }
};

}  // namespace kineograph

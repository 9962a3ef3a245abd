// The files of tests/goldens: what diffusers computes, and the models it computed it with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"

namespace kineograph::testing {

struct Golden {
  std::string name;
  TransformerTemporalConfig config;
  std::uint64_t seed = 0;
  DType weights_dtype = DType::f32;
  bool seeded_positions = false;
  std::int64_t num_frames = 1;
  Checkpoint file;

  TransformerTemporalModel model(const ModelOptions& options) const;
  ForwardOptions arguments() const;
  TensorView hidden_states() const { return file.find("hidden_states"); }
  TensorView sample() const { return file.find("sample"); }
};

std::filesystem::path golden_folder();
std::vector<std::string> golden_names();
Golden load_golden(const std::filesystem::path& file);

}  // namespace kineograph::testing

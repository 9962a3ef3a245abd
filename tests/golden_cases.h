// The files of tests/goldens: what diffusers computes, and the models it computed it with.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"
#include "model/parameters.h"

namespace kineograph::testing {

struct Golden {
  std::string name;
  TransformerTemporalConfig config;
  std::uint64_t seed = 0;
  DType weights_dtype = DType::f32;
  bool seeded_positions = false;
  std::int64_t num_frames = 1;
  std::optional<ContextOptions> context = {};
  Checkpoint file;

  TransformerTemporalModel model(const ModelOptions& options) const;
  ForwardOptions arguments() const;
  TensorView hidden_states() const { return file.find("hidden_states"); }
  TensorView sample() const { return file.find("sample"); }
};

/// A parameter as tests/goldens/seeded_weights.py draws it.
Tensor draw(const model::Slot& slot, std::uint64_t seed, DType dtype, bool seeded_positions = false);
/// "f32", "f16" or "bf16" of a golden's metadata.
DType dtype_of_name(const std::string& name);
/// Every parameter of `config`, drawn; views of `tensors`.
std::vector<Parameter> draw_state_dict(const ModelConfig& config, std::uint64_t seed, DType dtype,
                                       bool seeded_positions, std::vector<Tensor>& tensors);

std::filesystem::path golden_folder();
/// The goldens in a folder, or in one below it.
std::vector<std::string> golden_names(const std::string& below = {});
Golden load_golden(const std::filesystem::path& file);

}  // namespace kineograph::testing

// The input's first line as PEFT's settings, in the file's metadata and in a file beside it; each further line as the
// name of a factor; and the whole as a LoRA's file.
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "fuzz.h"
#include "kineograph/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  static const fuzz::Folder folder;
  std::istringstream lines(fuzz::text(data, size));
  std::string settings;
  std::getline(lines, settings);
  const Tensor down(DType::f32, {2, 4}), up(DType::f16, {4, 2}), alpha(DType::i32, {});
  std::vector<std::pair<std::string, TensorView>> tensors;
  std::set<std::string> taken;
  for (std::string line; std::getline(lines, line) && tensors.size() < 64;) {
    const bool is_up = line.find("up") != std::string::npos || line.find("_B") != std::string::npos;
    const bool is_alpha = line.ends_with("alpha");
    // JSON holds UTF-8; other bytes are another target's.
    for (char& letter : line)
      if ((letter & 0x80) != 0) letter = '?';
    if (taken.insert(line).second) tensors.emplace_back(line, is_alpha ? alpha : is_up ? up : down);
  }
  const auto file = folder / "adapter_model.safetensors", config = folder / "adapter_config.json";
  std::ofstream(config, std::ios::binary) << settings;
  save_safetensors(file, tensors);
  fuzz::expect_value_or_error([&] { Lora::open(folder.path()); });
  std::filesystem::remove(config);
  for (char& letter : settings)
    if ((letter & 0x80) != 0) letter = '?';
  save_safetensors(file, tensors, {{"lora_adapter_metadata", settings}});
  fuzz::expect_value_or_error([&] {
    const Lora lora = Lora::open(folder.path());
    TemporalModule module;
    module.name = "mid_block.motion_modules.0";
    const Tensor weight(DType::f32, {4, 4});
    module.state_dict.push_back({"transformer_blocks.0.attn1.to_q.weight", weight});
    const Lora fitted = lora.fitted_to({module});
    merged_weight({{fitted, 0.5}}, module.name, module.state_dict.front().name, weight, DType::f32);
  });
  fuzz::inspect(fuzz::text(data, size));
  return 0;
}

// A run's checkpoint that `train --resume` is given. Lines of the input: the step, the settings, and names of tensors
// that are left out, or with a + before them are of another shape.
#include <filesystem>
#include <map>
#include <sstream>

#include "fuzz.h"
#include "train_checkpoint.h"
#include "video/train/windows.h"

namespace {

using namespace kineograph;

TransformerTemporalModel small_model() {
  TransformerTemporalConfig config;
  config.num_attention_heads = 1;
  config.attention_head_dim = 4;
  config.in_channels = 12;
  config.norm_num_groups = 1;
  config.norm_type = NormType::ada_norm_zero;
  config.num_embeds_ada_norm = 3;
  return TransformerTemporalModel::from_config(config, 1, {.engine = "reference"});
}

std::map<std::string, TensorView> tensors_of(const TransformerTemporalModel& model) {
  std::map<std::string, TensorView> tensors;
  for (const char* kind : {"weights.", "average.", "exp_avg.", "exp_avg_sq."})
    for (const Parameter& parameter : model.parameters()) tensors[kind + parameter.name] = parameter.value;
  return tensors;
}

void resume(const std::filesystem::path& path) {
  cli::TrainArguments arguments;
  const Checkpoint checkpoint = Checkpoint::open(path);
  const auto config = cli::adopt(
      checkpoint, [](const std::string&) { return false; }, arguments);
  const auto model = cli::stored_model(checkpoint, config);
  const auto options = cli::resumed_options(path.string(), arguments, config);
  video::TrainingSession session(model, options, {video::drawn_windows()}, {.engine = "reference"}, 1);
  session.load(checkpoint);
  if (session.steps_done() > options.steps) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::Folder folder;
  const std::filesystem::path path = folder / "checkpoint.safetensors";
  static const TransformerTemporalModel model = small_model();
  static const Tensor misshapen(DType::f32, {3});
  std::string text = fuzz::text(data, size);
  // JSON holds UTF-8; other bytes are another target's.
  for (char& letter : text)
    if ((letter & 0x80) != 0) letter = '?';
  std::istringstream lines(text);
  std::string step, settings;
  std::getline(lines, step);
  std::getline(lines, settings);
  std::map<std::string, TensorView> tensors = tensors_of(model);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('+'))
      tensors[line.substr(1)] = misshapen;
    else
      tensors.erase(line);
  }
  save_safetensors(path, {tensors.begin(), tensors.end()}, {{"step", step}, {"settings", settings}});
  return fuzz::expect_value_or_error([&] { resume(path); });
}

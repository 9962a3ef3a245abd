// kineograph init: a model folder with seeded weights.
#include <iostream>
#include <memory>

#include "any_model.h"
#include "commands.h"
#include "kineograph/kineograph.h"

namespace kineograph::cli {
namespace {

struct InitArguments {
  std::string config, preset, output, variant, dtype = "f32";
  std::uint64_t seed = 0;
  bool lenient = false, list_presets = false;
};

void list_presets() {
  for (const Preset& preset : presets()) std::cout << preset.name << '\t' << preset.description << '\n';
}

const Preset& find_preset(const std::string& name) {
  for (const Preset& preset : presets())
    if (preset.name == name) return preset;
  throw CLI::ValidationError("--preset", "no preset is called " + name + "; --list-presets names them");
}

DType parse_dtype(const std::string& name) {
  return name == "f16" ? DType::f16 : name == "bf16" ? DType::bf16 : DType::f32;
}

void init(const InitArguments& arguments) {
  if (arguments.list_presets) return list_presets();
  if (arguments.config.empty() == arguments.preset.empty())
    throw CLI::ValidationError("init", "one of --config and --preset is needed");
  if (arguments.output.empty()) throw CLI::RequiredError("--output");
  const ModelConfig config =
      arguments.preset.empty()
          ? read_config(arguments.config, arguments.lenient ? UnknownKeys::warn : UnknownKeys::refuse, warn_once())
          : find_preset(arguments.preset).config;
  // The weights only pass through; the reference engine copies none before a call.
  const AnyModel made = seeded(config, arguments.seed, {.engine = "reference"}, parse_dtype(arguments.dtype));
  const ModelMixin& model = mixin(made);
  model.save_pretrained(arguments.output, arguments.variant);
  say("wrote " + arguments.output + ": " + std::to_string(model.num_parameters()) + " parameters in " +
      arguments.dtype + ", seed " + std::to_string(arguments.seed));
}

}  // namespace

void add_init(CLI::App& program) {
  auto arguments = std::make_shared<InitArguments>();
  CLI::App* command = program.add_subcommand("init", "Make a model folder with seeded weights");
  auto* config = command->add_option("--config", arguments->config, "A config.json, as diffusers writes it");
  command->add_option("--preset", arguments->preset, "A published model's module (see --list-presets)")
      ->excludes(config);
  command->add_option("--seed", arguments->seed, "Same seed, same weights, on every machine")->capture_default_str();
  command->add_option("--dtype", arguments->dtype, "Type the weights are stored in")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  command->add_option("--variant", arguments->variant, "Variant in the weights' file name, such as fp16");
  command->add_option("--output", arguments->output, "Folder to write");
  command->add_flag("--lenient", arguments->lenient, "Warn of unknown configuration keys instead of refusing them");
  command->add_flag("--list-presets", arguments->list_presets, "Print the presets' names and leave");
  command->footer("Example:\n  kineograph init --preset animatediff-v3/down_blocks.0 --seed 1 --output module/");
  command->callback([arguments] { init(*arguments); });
}

}  // namespace kineograph::cli

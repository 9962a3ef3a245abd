// kineograph init: a model folder with seeded weights.
#include <iostream>
#include <memory>

#include "any_model.h"
#include "base/nearest.h"
#include "commands.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"

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
  std::vector<std::string_view> names;
  for (const Preset& preset : presets()) names.push_back(preset.name);
  const std::string_view meant = nearest(name, names);
  throw CLI::ValidationError("--preset", "expected a name that --list-presets prints, found " + name +
                                             (meant.empty() ? "" : "; did you mean " + std::string(meant) + "?"));
}

void init(const InitArguments& arguments) {
  if (arguments.list_presets) return list_presets();
  if (arguments.config.empty() && arguments.preset.empty())
    throw CLI::ValidationError("--preset", "expected it or --config, found neither");
  if (arguments.output.empty()) throw CLI::RequiredError("--output");
  const ModelConfig config =
      arguments.preset.empty()
          ? read_config(arguments.config, arguments.lenient ? UnknownKeys::warn : UnknownKeys::refuse, warn_once())
          : find_preset(arguments.preset).config;
  const AnyModel made = seeded(config, arguments.seed, {}, dtype_named(arguments.dtype));
  const ModelMixin& model = mixin(made);
  model.save_pretrained(arguments.output, arguments.variant);
  say("wrote " + arguments.output + ": " + std::to_string(model.num_parameters()) + " parameters in " +
      arguments.dtype + ", seed " + std::to_string(arguments.seed));
}

}  // namespace

void add_init(CLI::App& program) {
  auto arguments = std::make_shared<InitArguments>();
  CLI::App* command = program.add_subcommand("init", "Make a model folder with seeded weights");
  auto* config =
      command->add_option("--config", arguments->config, "A config.json, as diffusers writes it")->type_name("FILE");
  command->add_option("--preset", arguments->preset, "A published model's module (see --list-presets)")
      ->type_name("NAME")
      ->excludes(config);
  add_whole_number(*command, "--seed", arguments->seed, 0, "Same seed, same weights, on every machine")
      ->capture_default_str();
  add_stored_dtype(*command, arguments->dtype, {"f32", "f16", "bf16"}, "Type the weights are stored in");
  add_variant(*command, arguments->variant);
  command->add_option("-o,--output", arguments->output, "Folder to write")->type_name("FOLDER");
  add_lenient(*command, arguments->lenient);
  command->add_flag("--list-presets", arguments->list_presets, "Print the presets' names and leave");
  command->footer("Example:\n  kineograph init --preset animatediff-v3-320 --seed 1 -o module");
  command->callback([arguments] { init(*arguments); });
}

}  // namespace kineograph::cli

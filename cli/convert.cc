// kineograph convert: from one checkpoint layout to another.
#include <charconv>
#include <map>
#include <memory>
#include <optional>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "progress.h"

namespace kineograph::cli {
namespace {

struct ConvertArguments {
  std::string input, output, to = "auto", module, dtype = "auto", variant;
  std::vector<std::string> loras;
  std::int64_t positions = 0;
};

const std::map<std::string, Layout>& targets() {
  static const std::map<std::string, Layout> known = {
      {"module", Layout::module}, {"motion-adapter", Layout::motion_adapter}, {"animatediff", Layout::animatediff}};
  return known;
}

/// FILE or FILE:SCALE. A name with a colon of its own needs a scale behind it.
std::pair<Lora, double> read_lora(const std::string& argument) {
  const std::size_t colon = argument.rfind(':');
  if (colon == std::string::npos) return {Lora::open(argument), 1.0};
  double scale = 0;
  const char* begin = argument.data() + colon + 1;
  const char* last = argument.data() + argument.size();
  const auto [end, error] = std::from_chars(begin, last, scale);
  if (error != std::errc() || end != last || !(scale - scale == 0))
    throw CLI::ValidationError("--lora", "expected FILE or FILE:SCALE with a number for SCALE, found " + argument);
  return {Lora::open(argument.substr(0, colon)), scale};
}

/// What most people want: an adapter of motion modules, else the one module that was asked for.
Layout choose(const ConvertArguments& arguments, const Checkpoint& checkpoint) {
  if (const auto found = targets().find(arguments.to); found != targets().end()) return found->second;
  const std::vector<TemporalModule> modules = temporal_modules(checkpoint);
  const bool motion = !modules.empty() && is_motion(modules.front().layout);
  return motion && arguments.module.empty() ? Layout::motion_adapter : Layout::module;
}

void run_convert(const ConvertArguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.input, arguments.variant);
  ConvertOptions options;
  options.to = choose(arguments, checkpoint);
  options.module = arguments.module;
  if (arguments.dtype != "auto")
    options.dtype = arguments.dtype == "f32" ? DType::f32 : arguments.dtype == "f16" ? DType::f16 : DType::bf16;
  for (const std::string& lora : arguments.loras) options.loras.push_back(read_lora(lora));
  if (arguments.positions != 0) options.num_positional_embeddings = arguments.positions;
  std::optional<Progress> progress;
  std::size_t written = 0;
  options.on_progress = [&](std::size_t done, std::size_t total) {
    constexpr std::size_t kMegabyte = 1'000'000;
    if (!progress) progress.emplace(static_cast<std::int64_t>(total / kMegabyte), "MB");
    progress->advance(static_cast<std::int64_t>(done / kMegabyte - written / kMegabyte));
    written = done;
  };
  convert(checkpoint, arguments.output, options);
  progress.reset();
  say(arguments.output + ": " + std::string(name_of(options.to)) + ", " + std::to_string(written) +
      " bytes of tensors");
}

}  // namespace

void add_convert(CLI::App& program) {
  auto arguments = std::make_shared<ConvertArguments>();
  CLI::App* command = program.add_subcommand("convert", "Write a checkpoint in another layout");
  command->add_option("IN", arguments->input, "A checkpoint of any known layout, see docs/checkpoints.md")->required();
  command->add_option("OUT", arguments->output, "A folder; for --to animatediff a .safetensors file")->required();
  command
      ->add_option("--to", arguments->to,
                   "auto (motion-adapter for motion modules, else module), module, motion-adapter, animatediff")
      ->check(CLI::IsMember({"auto", "module", "motion-adapter", "animatediff"}))
      ->capture_default_str();
  command->add_option("--module", arguments->module, "Which module, for --to module (see inspect)");
  command->add_option("--dtype", arguments->dtype, "auto keeps what is there")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16"}))
      ->capture_default_str();
  command->add_option("--lora", arguments->loras, "FILE[:SCALE] to merge into the weights; may be given again")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--extend-positions", arguments->positions, "Rows of longer position tables")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--variant", arguments->variant, "Variant in the weights' file name, such as fp16");
  command->footer(
      "Example:\n  kineograph convert mm_sd_v15_v2.ckpt motion_adapter --dtype f16 --lora pan_left.ckpt:0.8");
  command->callback([arguments] { run_convert(*arguments); });
}

}  // namespace kineograph::cli

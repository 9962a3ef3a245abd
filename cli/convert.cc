// kineograph convert: from one checkpoint layout to another.
#include <charconv>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "progress.h"

namespace kineograph::cli {
namespace {

struct ConvertArguments {
  std::string input, output, to = "auto", module, dtype = "auto", variant, select, adapter, lora_select;
  std::vector<std::string> loras;
  std::int64_t positions = 0;
  bool strict = false, json = false;
};

const std::map<std::string, Layout>& targets() {
  static const std::map<std::string, Layout> known = {
      {"module", Layout::module}, {"motion-adapter", Layout::motion_adapter}, {"animatediff", Layout::animatediff}};
  return known;
}

/// FILE or FILE:SCALE. A name with a colon of its own needs a scale behind it.
std::pair<Lora, double> read_lora(const std::string& argument, const LoraOptions& options) {
  const std::size_t colon = argument.rfind(':');
  if (colon == std::string::npos) return {Lora::open(argument, options), 1.0};
  double scale = 0;
  const char* begin = argument.data() + colon + 1;
  const char* last = argument.data() + argument.size();
  const auto [end, error] = std::from_chars(begin, last, scale);
  if (error != std::errc() || end != last || !(scale - scale == 0))
    throw CLI::ValidationError("--lora", "expected FILE or FILE:SCALE with a number for SCALE, found " + argument);
  return {Lora::open(argument.substr(0, colon), options), scale};
}

/// What most people want: an adapter of motion modules, else the one module that was asked for.
Layout choose(const ConvertArguments& arguments, const Checkpoint& checkpoint) {
  if (const auto found = targets().find(arguments.to); found != targets().end()) return found->second;
  const std::vector<TemporalModule> modules = temporal_modules(checkpoint);
  const bool motion = !modules.empty() && is_motion(modules.front().layout);
  return motion && arguments.module.empty() ? Layout::motion_adapter : Layout::module;
}

/// Says which pairs of a LoRA were merged, and lists the first of what was not.
void report_lora(const ConvertReport::Merged& merged) {
  constexpr std::size_t kMost = 5;
  std::string text = merged.file + ": " + std::to_string(merged.deltas) + " pairs merged";
  if (!merged.skipped.empty()) text += ", " + std::to_string(merged.skipped.size()) + " left out:";
  for (std::size_t i = 0; i < merged.skipped.size() && i < kMost; ++i)
    text += "\n  " + printable(merged.skipped[i].key) + ": " + printable(merged.skipped[i].why);
  if (merged.skipped.size() > kMost)
    text += "\n  and " + std::to_string(merged.skipped.size() - kMost) + " more; --json lists them";
  say(text);
}

void print_json(const ConvertArguments& arguments, Layout layout, std::size_t bytes, const ConvertReport& report) {
  nlohmann::ordered_json out = {{"output", arguments.output}, {"layout", name_of(layout)}, {"bytes", bytes}};
  out["loras"] = nlohmann::json::array();
  for (const ConvertReport::Merged& merged : report.loras) {
    auto skipped = nlohmann::ordered_json::array();
    for (const auto& [key, why] : merged.skipped) skipped.push_back({{"key", key}, {"why", why}});
    out["loras"].push_back(
        {{"file", merged.file}, {"scale", merged.scale}, {"merged", merged.deltas}, {"skipped", skipped}});
  }
  std::cout << out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
}

void run_convert(const ConvertArguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.input, {arguments.variant, arguments.select});
  ConvertOptions options;
  options.to = choose(arguments, checkpoint);
  options.module = arguments.module;
  if (arguments.dtype != "auto")
    options.dtype = arguments.dtype == "f32" ? DType::f32 : arguments.dtype == "f16" ? DType::f16 : DType::bf16;
  for (const std::string& lora : arguments.loras)
    options.loras.push_back(read_lora(lora, {arguments.lora_select, arguments.adapter}));
  if (arguments.positions != 0) options.num_positional_embeddings = arguments.positions;
  std::optional<Progress> progress;
  std::size_t written = 0;
  options.on_progress = [&](std::size_t done, std::size_t total) {
    constexpr std::size_t kMegabyte = 1'000'000;
    if (!progress) progress.emplace(static_cast<std::int64_t>(total / kMegabyte), "MB");
    progress->advance(static_cast<std::int64_t>(done / kMegabyte - written / kMegabyte));
    written = done;
  };
  options.strict = arguments.strict;
  const ConvertReport report = convert(checkpoint, arguments.output, options);
  progress.reset();
  for (const ConvertReport::Merged& merged : report.loras) report_lora(merged);
  if (arguments.json) print_json(arguments, options.to, written, report);
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
  command->add_option("--adapter", arguments->adapter, "Which adapter of a LoRA file that has several");
  command->add_option("--lora-select", arguments->lora_select, "Path of the pairs that are read of a LoRA file");
  command->add_flag("--strict", arguments->strict, "Refuse a LoRA of which anything is not merged");
  command->add_flag("--json", arguments->json, "Print what was written, and what of LoRAs was left out, as JSON");
  command->add_option("--select", arguments->select, "Path of one set of weights, where a file has several");
  command->add_option("--extend-positions", arguments->positions, "Rows of longer position tables")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--variant", arguments->variant, "Variant in the weights' file name, such as fp16");
  command->footer(
      "Example:\n  kineograph convert mm_sd_v15_v2.ckpt motion_adapter --dtype f16 --lora pan_left.ckpt:0.8");
  command->callback([arguments] { run_convert(*arguments); });
}

}  // namespace kineograph::cli

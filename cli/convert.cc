// kineograph convert: from one checkpoint layout to another.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"
#include "progress.h"

namespace kineograph::cli {
namespace {

struct ConvertArguments {
  std::string input, output, to = "auto", module, dtype = "auto", variant, select, adapter, lora_select;
  std::vector<std::string> loras;
  PositionsArgument positions;
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
  if (error != std::errc() || end != last || !std::isfinite(scale))
    throw CLI::ValidationError("--lora", "expected FILE or FILE:SCALE with a number for SCALE, found " + argument);
  return {Lora::open(argument.substr(0, colon), options), scale};
}

bool is_file_name(const std::string& output) { return std::filesystem::path(output).extension() == ".safetensors"; }

/// --to, or the layout that fits what is there and OUT's ending: of motion modules an adapter, or the original's one
/// file; of others, and of a module that was asked for, modules.
Layout choose(const ConvertArguments& arguments, const std::vector<TemporalModule>& modules) {
  if (const auto found = targets().find(arguments.to); found != targets().end()) return found->second;
  const bool motion = !modules.empty() && is_motion(modules.front().layout);
  if (!motion || !arguments.module.empty()) return Layout::module;
  return is_file_name(arguments.output) ? Layout::animatediff : Layout::motion_adapter;
}

void check_usage(const ConvertArguments& arguments, Layout to) {
  const std::string name(name_of(to));
  if (to == Layout::animatediff && !is_file_name(arguments.output))
    throw CLI::ValidationError("OUT", "expected a file's name that ends in .safetensors, for the layout " + name +
                                          ", found " + arguments.output);
  if (to != Layout::animatediff && is_file_name(arguments.output))
    throw CLI::ValidationError("OUT",
                               "expected a folder's name, for the layout " + name + ", found " + arguments.output);
  if (to != Layout::module && !arguments.module.empty())
    throw CLI::ValidationError("--module", "expected --to module with it, found --to " + arguments.to);
}

/// The modules to write, one by one where they become folders of their own. Throws before anything is written.
std::vector<std::string> modules_to_write(const ConvertArguments& arguments,
                                          const std::vector<TemporalModule>& modules) {
  std::vector<std::string> names;
  std::string known;
  for (const TemporalModule& module : modules) {
    known += (known.empty() ? "" : ", ") + module.name;
    if (!arguments.module.empty() && module.name != arguments.module) continue;
    if (!module.problem.empty())
      throw CheckpointError(arguments.input + ": module " + module.name, "a whole one", module.problem);
    names.push_back(module.name);
  }
  if (names.empty() && !modules.empty())
    throw ArgumentError("--module", modules.size() == 1 ? "none, as there is one" : "one of " + known,
                        arguments.module);
  return names;
}

/// Shows the megabytes of one file as they are written; what the next one has in all is known when it begins.
class ConvertProgress {
 public:
  void operator()(std::size_t done, std::size_t total) {
    constexpr std::size_t kMegabyte = 1'000'000;
    if (!bar_) bar_ = std::make_unique<Progress>(static_cast<std::int64_t>(total / kMegabyte), "MB");
    bar_->advance(static_cast<std::int64_t>(done / kMegabyte - done_ / kMegabyte));
    done_ = done;
  }
  /// Ends the bar; returns the bytes of the file.
  std::size_t finish() {
    bar_.reset();
    return std::exchange(done_, 0);
  }

 private:
  std::unique_ptr<Progress> bar_;
  std::size_t done_ = 0;
};

std::string next_step(const ConvertArguments& arguments, Layout to, const std::vector<std::string>& written) {
  if (to == Layout::motion_adapter)
    return "next, in diffusers: MotionAdapter.from_pretrained(\"" + arguments.output + "\")";
  if (to == Layout::animatediff) return "next: kineograph inspect " + arguments.output;
  return "next: kineograph run --model " + arguments.output + (written.size() > 1 ? "/" + written.front() : "") +
         " --input in.npy --output out.npy --num-frames 16";
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
  std::cout << out.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) << '\n';
}

struct Written {
  std::vector<std::string> names = {};  ///< of the modules, for Layout::module
  std::size_t bytes = 0;
  ConvertReport report = {};
};

/// Converts; several modules become folders of their own.
Written write(const Checkpoint& checkpoint, const std::vector<TemporalModule>& modules,
              const ConvertArguments& arguments, ConvertOptions& options) {
  const auto progress = std::make_shared<ConvertProgress>();
  options.on_progress = [progress](std::size_t done, std::size_t total) {
    (*progress)(done, total);
    return true;
  };
  Written written;
  if (options.to == Layout::module) written.names = modules_to_write(arguments, modules);
  if (written.names.size() < 2) {
    options.module = arguments.module;
    written.report = convert(checkpoint, arguments.output, options);
    written.bytes = progress->finish();
    return written;
  }
  for (const std::string& name : written.names) {
    options.module = name;
    // LoRAs are fitted to all modules, whichever is written: the reports are the same.
    written.report = convert(checkpoint, std::filesystem::path(arguments.output) / name, options);
    written.bytes += progress->finish();
  }
  return written;
}

void run_convert(const ConvertArguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.input, {arguments.variant, arguments.select});
  const std::vector<TemporalModule> modules = temporal_modules(checkpoint);
  ConvertOptions options;
  options.to = choose(arguments, modules);
  check_usage(arguments, options.to);
  if (arguments.dtype != "auto") options.dtype = dtype_named(arguments.dtype);
  for (const std::string& lora : arguments.loras)
    options.loras.push_back(read_lora(lora, {arguments.lora_select, arguments.adapter}));
  arguments.positions.apply(options);
  options.strict = arguments.strict;
  const Written written = write(checkpoint, modules, arguments, options);
  for (const ConvertReport::Merged& merged : written.report.loras) report_lora(merged);
  if (arguments.json) print_json(arguments, options.to, written.bytes, written.report);
  const auto count = static_cast<std::int64_t>(options.to == Layout::module ? written.names.size() : modules.size());
  say("wrote " + arguments.output + ", a " + (is_file_name(arguments.output) ? "file" : "folder") + ": " +
      counted(count, "module") + ", layout " + std::string(name_of(options.to)) + ", " + size_text(written.bytes));
  say(next_step(arguments, options.to, written.names));
}

}  // namespace

void add_convert(CLI::App& program) {
  auto arguments = std::make_shared<ConvertArguments>();
  CLI::App* command = program.add_subcommand("convert", "Write a checkpoint in another layout");
  command->add_option("IN", arguments->input, "A checkpoint of any known layout, see docs/checkpoints.md")
      ->type_name("PATH")
      ->required();
  command
      ->add_option("OUT", arguments->output,
                   "A folder; a name that ends in .safetensors is a file, of the original AnimateDiff's layout")
      ->type_name("PATH")
      ->required();
  add_choice(*command, "--to", arguments->to, {"auto", "module", "motion-adapter", "animatediff"},
             "auto: for motion modules motion-adapter, or animatediff if OUT is a file; for others module");
  command
      ->add_option("--module", arguments->module,
                   "Which module, for --to module (see inspect); without it each becomes a folder in OUT")
      ->type_name("NAME");
  add_stored_dtype(*command, arguments->dtype, {"auto", "f32", "f16", "bf16"}, "auto keeps what is there");
  command->add_option("--lora", arguments->loras, "File to merge into the weights; may be given again")
      ->type_name("FILE[:SCALE]")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--adapter", arguments->adapter, "Which adapter of a LoRA file that has several")
      ->type_name("NAME");
  command->add_option("--lora-select", arguments->lora_select, "Path of the pairs that are read of a LoRA file")
      ->type_name("PATH");
  command->add_flag("--strict", arguments->strict, "Refuse a LoRA of which anything is not merged");
  command->add_flag("--json", arguments->json, "Print what was written, and what of LoRAs was left out, as JSON");
  add_select(*command, arguments->select);
  add_extend_positions(*command, arguments->positions);
  add_variant(*command, arguments->variant);
  command->footer(
      "Example:\n  kineograph convert mm_sd_v15_v2.ckpt motion_adapter --dtype f16 --lora pan_left.ckpt:0.8");
  command->callback([arguments] { run_convert(*arguments); });
}

}  // namespace kineograph::cli

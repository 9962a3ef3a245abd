// kineograph convert: from one checkpoint layout to another.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"
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
  if (error != std::errc() || end != last || !std::isfinite(scale))
    throw CLI::ValidationError("--lora", "expected FILE or FILE:SCALE with a number for SCALE, found " + argument);
  return {Lora::open(argument.substr(0, colon)), scale};
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

/// Shows the megabytes of one file as they are written; what the next one has in all is known with its first tensor.
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

void run_convert(const ConvertArguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.input, arguments.variant);
  const std::vector<TemporalModule> modules = temporal_modules(checkpoint);
  ConvertOptions options;
  options.to = choose(arguments, modules);
  check_usage(arguments, options.to);
  if (arguments.dtype != "auto") options.dtype = dtype_named(arguments.dtype);
  for (const std::string& lora : arguments.loras) options.loras.push_back(read_lora(lora));
  if (arguments.positions != 0) options.num_positional_embeddings = arguments.positions;
  const auto progress = std::make_shared<ConvertProgress>();
  options.on_progress = [progress](std::size_t done, std::size_t total) { (*progress)(done, total); };

  std::size_t bytes = 0;
  std::vector<std::string> written;
  if (options.to == Layout::module) written = modules_to_write(arguments, modules);
  if (written.size() > 1) {
    for (const std::string& name : written) {
      options.module = name;
      convert(checkpoint, std::filesystem::path(arguments.output) / name, options);
      bytes += progress->finish();
    }
  } else {
    options.module = arguments.module;
    convert(checkpoint, arguments.output, options);
    bytes = progress->finish();
  }
  const auto count = static_cast<std::int64_t>(options.to == Layout::module ? written.size() : modules.size());
  say("wrote " + arguments.output + ", a " + (is_file_name(arguments.output) ? "file" : "folder") + ": " +
      counted(count, "module") + ", layout " + std::string(name_of(options.to)) + ", " + size_text(bytes));
  say(next_step(arguments, options.to, written));
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
  add_whole_number(*command, "--extend-positions", arguments->positions, 1, 1 << 20, "Rows of longer position tables");
  add_variant(*command, arguments->variant);
  command->footer(
      "Example:\n  kineograph convert mm_sd_v15_v2.ckpt motion_adapter --dtype f16 --lora pan_left.ckpt:0.8");
  command->callback([arguments] { run_convert(*arguments); });
}

}  // namespace kineograph::cli

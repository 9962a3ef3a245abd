// kineograph run: a clip through a model.
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <vector>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "progress.h"
#include "verify.h"
#include "video/clip_io.h"

namespace kineograph::cli {

using namespace video;

namespace {

// The frames of a video that are one clip, where nobody says: what the published motion modules were trained on.
constexpr std::int64_t kVideoWindow = 16;

struct RunArguments {
  std::string model, module, input, output, encoder_hidden_states;
  std::string engine = "auto", dtype = "auto", isa, variant, select, group_norm_scope;
  std::vector<double> timestep;
  std::vector<std::int64_t> class_labels;
  std::int64_t num_frames = 0, patch = 8;
  int threads = 0;
  bool lenient = false, verify = false;
};

ModelOptions model_options(const RunArguments& arguments) {
  ModelOptions options;
  options.engine = arguments.engine;
  options.isa = arguments.isa;
  options.variant = arguments.variant;
  if (arguments.dtype != "auto") options.compute_dtype = arguments.dtype == "bf16" ? DType::bf16 : DType::f32;
  if (!arguments.group_norm_scope.empty())
    options.group_norm_scope =
        arguments.group_norm_scope == name_of(GroupNormScope::frame) ? GroupNormScope::frame : GroupNormScope::clip;
  options.unknown_keys = arguments.lenient ? UnknownKeys::warn : UnknownKeys::refuse;
  options.on_warning = warn_once();
  return options;
}

void check_paths(const RunArguments& arguments) {
  for (const auto& [option, path] : {std::pair{"--input", arguments.input}, {"--output", arguments.output}})
    if (!kind_of(path))
      throw CLI::ValidationError(option, "expected .safetensors, .npy, .y4m or - (a pipe of .y4m), found " + path);
  if (arguments.input == "-" && isatty(STDIN_FILENO)) throw CLI::ValidationError("--input", "- needs a pipe on stdin");
  if (arguments.output == "-" && isatty(STDOUT_FILENO))
    throw CLI::ValidationError("--output", "- needs a pipe on stdout; video is nothing for a terminal");
  if (!arguments.encoder_hidden_states.empty()) {
    const auto kind = kind_of(arguments.encoder_hidden_states);
    if (!kind || kind == ClipKind::y4m)
      throw CLI::ValidationError("--encoder-hidden-states",
                                 "expected .safetensors or .npy, found " + arguments.encoder_hidden_states);
  }
}

// What the command line sets over what the input holds.
struct Overrides {
  TensorView encoder_hidden_states;
  std::shared_ptr<const void> encoder_owner;
  Tensor timestep, class_labels;
};

Overrides read_overrides(const RunArguments& arguments) {
  Overrides overrides;
  if (!arguments.encoder_hidden_states.empty())
    overrides.encoder_hidden_states =
        read_tensor(arguments.encoder_hidden_states, "encoder_hidden_states", overrides.encoder_owner);
  if (!arguments.timestep.empty()) {
    const auto count = static_cast<std::int64_t>(arguments.timestep.size());
    bool integers = true;
    for (double value : arguments.timestep) integers = integers && std::abs(value) < 9e15 && value == std::trunc(value);
    overrides.timestep = Tensor(integers ? DType::i64 : DType::f32, {count});
    for (std::int64_t i = 0; i < count; ++i) {
      const double value = arguments.timestep[static_cast<std::size_t>(i)];
      if (integers)
        overrides.timestep.data_as<std::int64_t>()[i] = static_cast<std::int64_t>(value);
      else
        overrides.timestep.data_as<float>()[i] = static_cast<float>(value);
    }
  }
  if (!arguments.class_labels.empty()) {
    const auto count = static_cast<std::int64_t>(arguments.class_labels.size());
    overrides.class_labels = Tensor(DType::i64, {count});
    std::copy(arguments.class_labels.begin(), arguments.class_labels.end(),
              overrides.class_labels.data_as<std::int64_t>());
  }
  return overrides;
}

ForwardOptions forward_options(const RunArguments& arguments, const Clip& clip, const Overrides& overrides,
                               const WarningHandler& on_warning) {
  ForwardOptions options;
  // diffusers' default for a tensor is 1.
  options.num_frames = clip.num_frames != 0 ? clip.num_frames : arguments.num_frames != 0 ? arguments.num_frames : 1;
  options.encoder_hidden_states =
      overrides.encoder_hidden_states ? overrides.encoder_hidden_states : clip.encoder_hidden_states;
  options.timestep = overrides.timestep ? overrides.timestep.view() : clip.timestep;
  options.class_labels = overrides.class_labels ? overrides.class_labels.view() : clip.class_labels;
  options.num_threads = arguments.threads;
  options.on_warning = on_warning;
  return options;
}

// The model would refuse too, but cannot know of patches.
void check_video(const TransformerTemporalConfig& config, std::int64_t patch) {
  const std::int64_t channels = 3 * patch * patch;
  if (config.in_channels == channels) return;
  throw ArgumentError(
      "--input",
      "latents for the model's " +
          (config.in_channels ? "in_channels " + std::to_string(*config.in_channels) : std::string("discrete input")),
      "video with --patch " + std::to_string(patch) + ", which makes " + std::to_string(channels) +
          " channels (3 x patch x patch)");
}

/// A folder of a single model, or one module of any known checkpoint.
TransformerTemporalModel open_model(const RunArguments& arguments, const ModelOptions& options) {
  if (arguments.module.empty() && arguments.select.empty() && !std::filesystem::is_regular_file(arguments.model))
    return TransformerTemporalModel::from_pretrained(arguments.model, options);
  return load(Checkpoint::open(arguments.model, {arguments.variant, arguments.select}), arguments.module, options);
}

void run(const RunArguments& arguments) {
  check_paths(arguments);
  using Clock = std::chrono::steady_clock;
  const ModelOptions options = model_options(arguments);
  const auto model = open_model(arguments, options);
  const Overrides overrides = read_overrides(arguments);
  const auto source =
      open_clip(arguments.input, arguments.num_frames != 0 ? arguments.num_frames : kVideoWindow, arguments.patch);
  if (source->video()) check_video(model.config(), arguments.patch);
  std::optional<Verifier> verifier;
  if (arguments.verify)
    verifier.emplace([&](const ModelOptions& changed) { return open_model(arguments, changed); }, options);
  const auto sink = open_sample(arguments.output, source->video(), arguments.patch);

  std::int64_t rows = 0;
  Clock::duration spent{};
  {
    Progress progress(source->total_frames());
    while (const std::optional<Clip> clip = source->next()) {
      const ForwardOptions forward = forward_options(arguments, *clip, overrides, options.on_warning);
      const auto start = Clock::now();
      Tensor sample = model.forward(clip->hidden_states, forward).sample;
      spent += Clock::now() - start;
      if (verifier) verifier->check(clip->hidden_states, forward, sample);
      rows += clip->hidden_states.size(0);
      progress.advance(clip->hidden_states.size(0));
      sink->append(std::move(sample));
    }
  }
  if (verifier) verifier->conclude(model);
  sink->finish();
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%.3f", std::chrono::duration<double>(spent).count());
  say(std::to_string(rows) + " frames in " + seconds + " s (engine " + std::string(model.engine()) + ", " +
      std::string(model.isa()) + ", " + std::string(name_of(model.compute_dtype())) + ")");
}

std::vector<std::string> engine_names() {
  std::vector<std::string> names = engines();
  names.insert(names.begin(), "auto");
  return names;
}

}  // namespace

void add_run(CLI::App& program) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* command = program.add_subcommand("run", "Run a clip through a model");
  const auto at_least = [](std::int64_t least) { return CLI::Range(least, std::numeric_limits<std::int64_t>::max()); };
  command
      ->add_option("--model", arguments->model,
                   "Model folder, as diffusers' save_pretrained writes it, or any checkpoint of docs/checkpoints.md")
      ->required();
  command->add_option("--module", arguments->module, "Which temporal module of a checkpoint (see inspect)");
  command
      ->add_option("--input", arguments->input,
                   ".safetensors (hidden_states, encoder_hidden_states, timestep, class_labels), .npy, .y4m, or - for "
                   "a pipe of .y4m")
      ->required();
  command->add_option("--output", arguments->output, ".safetensors (sample), .npy, .y4m, or - for a pipe of .y4m")
      ->required();
  command
      ->add_option("--num-frames", arguments->num_frames,
                   "Frames of one clip (default: 1 for tensors, as in diffusers; 16 for video)")
      ->check(at_least(1));
  command->add_option("--patch", arguments->patch, "Video: pixels across one latent; channels are 3 x patch x patch")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--encoder-hidden-states", arguments->encoder_hidden_states,
                      "Conditioning from a .safetensors or .npy file");
  command->add_option("--timestep", arguments->timestep, "One, or one for each video, separated by commas")
      ->delimiter(',');
  command->add_option("--class-labels", arguments->class_labels, "One, or one for each video, separated by commas")
      ->delimiter(',');
  command->add_option("--engine", arguments->engine, "Engine to run on")
      ->check(CLI::IsMember(engine_names()))
      ->capture_default_str();
  command->add_option("--isa", arguments->isa, "Instruction set to force (see --version)");
  command->add_option("--dtype", arguments->dtype, "What matrix products take; auto follows the checkpoint")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads; 0 for KINEOGRAPH_NUM_THREADS or all cores")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  command
      ->add_option("--group-norm-scope", arguments->group_norm_scope, "Override the configuration's group_norm_scope")
      ->check(CLI::IsMember({"clip", "frame"}));
  command->add_option("--variant", arguments->variant, "Variant in the weights' file name, such as fp16");
  command->add_option("--select", arguments->select, "Path of one set of weights, where a file has several");
  command->add_flag("--lenient", arguments->lenient, "Warn of unknown configuration keys instead of refusing them");
  command->add_flag("--verify", arguments->verify,
                    "Also run the reference engine, report the worst difference, and fail if it is too large");
  command->footer(
      "Example:\n"
      "  ffmpeg -i in.mp4 -pix_fmt yuv420p -f yuv4mpegpipe - |\n"
      "    kineograph run --model module/ --input - --output - | ffmpeg -i - out.mp4");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace kineograph::cli

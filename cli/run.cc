// kineograph run: a clip through a model.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <vector>

#include "any_model.h"
#include "clips.h"
#include "commands.h"
#include "job.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"
#include "progress.h"
#include "shared_rows.h"
#include "verify.h"
#include "video/clip_io.h"

namespace kineograph::cli {

using namespace video;

namespace {

// Frames of one clip of a video by default: those that the published motion modules were trained on.
constexpr std::int64_t kVideoWindow = 16;

struct RunArguments {
  std::string model, module, input, output, encoder_hidden_states;
  std::string variant, select, group_norm_scope;
  EngineArguments engine;
  PositionsArgument positions;
  std::vector<double> timestep;
  std::vector<std::int64_t> class_labels;
  std::string context_weighting;
  std::int64_t num_frames = 0, context_length = 0, context_stride = 0, patch = 8, patience = kPatience;
  bool lenient = false, verify = false;
};

ModelOptions model_options(const RunArguments& arguments) {
  ModelOptions options = arguments.engine.model_options();
  options.variant = arguments.variant;
  arguments.positions.apply(options);
  if (!arguments.group_norm_scope.empty())
    options.group_norm_scope =
        arguments.group_norm_scope == name_of(GroupNormScope::frame) ? GroupNormScope::frame : GroupNormScope::clip;
  options.unknown_keys = arguments.lenient ? UnknownKeys::warn : UnknownKeys::refuse;
  return options;
}

void check_paths(const RunArguments& arguments) {
  check_clip_path("--input", arguments.input);
  check_clip_path("--output", arguments.output);
  if (arguments.encoder_hidden_states.empty()) return;
  const auto kind = kind_of(arguments.encoder_hidden_states);
  if (!kind || kind == ClipKind::y4m)
    throw CLI::ValidationError("--encoder-hidden-states",
                               "expected .safetensors or .npy, found " + arguments.encoder_hidden_states);
}

// Arguments of forward from the command line, which win over the input's own.
struct Overrides {
  TensorView encoder_hidden_states;
  std::shared_ptr<const void> encoder_owner;
  Tensor timestep, class_labels;
};

/// i64 where all are whole, else f32.
Tensor timesteps_of(const std::vector<double>& values) {
  const bool whole = std::all_of(values.begin(), values.end(),
                                 [](double value) { return std::abs(value) < 9e15 && value == std::trunc(value); });
  Tensor timestep(whole ? DType::i64 : DType::f32, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i)
    if (whole)
      timestep.data_as<std::int64_t>()[i] = static_cast<std::int64_t>(values[i]);
    else
      timestep.data_as<float>()[i] = static_cast<float>(values[i]);
  return timestep;
}

Overrides read_overrides(const RunArguments& arguments) {
  Overrides overrides;
  if (!arguments.encoder_hidden_states.empty())
    overrides.encoder_hidden_states =
        read_tensor(arguments.encoder_hidden_states, "encoder_hidden_states", overrides.encoder_owner);
  if (!arguments.timestep.empty()) overrides.timestep = timesteps_of(arguments.timestep);
  if (!arguments.class_labels.empty()) {
    overrides.class_labels = Tensor(DType::i64, {static_cast<std::int64_t>(arguments.class_labels.size())});
    std::copy(arguments.class_labels.begin(), arguments.class_labels.end(),
              overrides.class_labels.data_as<std::int64_t>());
  }
  return overrides;
}

/// Of one clip of a video.
std::int64_t frames_of_video(const RunArguments& arguments) {
  return arguments.num_frames != 0 ? arguments.num_frames : kVideoWindow;
}

void check_context(const RunArguments& arguments) {
  const bool of_windows = arguments.context_stride != 0 || !arguments.context_weighting.empty();
  if (of_windows && arguments.context_length == 0)
    throw CLI::ValidationError(arguments.context_stride != 0 ? "--context-stride" : "--context-weighting",
                               "expected together with --context-length, which has windows made");
}

/// For a clip of `frames`: the rest of a video may be shorter than a window, and is then one by itself.
std::optional<ContextOptions> context_options(const RunArguments& arguments, std::int64_t frames, bool rest) {
  if (arguments.context_length == 0) return std::nullopt;
  ContextOptions context;
  context.length = arguments.context_length;
  if (arguments.context_stride != 0) context.stride = arguments.context_stride;
  if (!arguments.context_weighting.empty())
    context.weighting = context_weighting(arguments.context_weighting, "--context-weighting");
  if (rest) context.length = std::min(context.length, frames);
  // The default, of windows that are shorter.
  if (rest || arguments.context_stride == 0) context.stride = std::min(context.stride, context.length);
  return context;
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
  const bool rest = clip.num_frames != 0 && clip.num_frames < frames_of_video(arguments);
  options.context = context_options(arguments, options.num_frames, rest);
  options.num_threads = arguments.engine.threads;
  options.on_warning = on_warning;
  return options;
}

// The model would refuse too, but cannot know of patches.
void check_video(const TransformerConfig& config, std::int64_t patch) {
  const std::int64_t channels = 3 * patch * patch;
  if (config.in_channels == channels) return;
  throw ArgumentError(
      "--input",
      "latents for the model's " +
          (config.in_channels ? "in_channels " + std::to_string(*config.in_channels) : std::string("discrete input")),
      "video with --patch " + std::to_string(patch) + ", which makes " + std::to_string(channels) +
          " channels (3 x patch x patch)");
}

/// diffusers' default for a tensor is one frame a clip, which is seldom meant for many rows.
void warn_of_single_frames(const RunArguments& arguments, const AnyModel& model, const Clip& clip,
                           const WarningHandler& on_warning) {
  const std::int64_t rows = clip.hidden_states.rank() > 0 ? clip.hidden_states.size(0) : 0;
  const bool told = arguments.num_frames != 0 || clip.num_frames != 0 || clip.image_only_indicator;
  if (told || rows <= 1 || std::holds_alternative<Transformer2DModel>(model)) return;
  on_warning("without --num-frames the " + counted(rows, "row") + " of " + arguments.input +
             " are videos of one frame each; --num-frames " + std::to_string(rows) + " takes them for one clip");
}

struct Totals {
  std::int64_t rows = 0;
  std::chrono::steady_clock::duration spent{};  ///< in forward
};

/// Refuses what a job of several processes cannot do.
void check_job(const RunArguments& arguments, const AnyModel& model) {
  if (arguments.input == "-")
    throw ArgumentError("--input", "a file, which every rank reads", "-, a pipe, which is rank 0's alone");
  if (arguments.verify)
    throw ArgumentError("--verify", "one process", "several ranks",
                        "Run it once without mpirun: the bits are the same.");
  if (!std::holds_alternative<TransformerTemporalModel>(model))
    throw ArgumentError("mpirun", "a TransformerTemporalModel, whose pixels are independent",
                        "a model whose pixels attend to each other");
}

/// The sample of all rows; in a job an empty tensor everywhere but on rank 0.
Tensor forward_piece(const AnyModel& model, const Clip& clip, const ForwardOptions& call, const SpatialArguments& more,
                     Job* job) {
  if (job == nullptr) return forward(model, clip.hidden_states, call, more);
  return forward_together(*job, std::get<TransformerTemporalModel>(model), clip.hidden_states, call);
}

/// The ends of a run: of a job only rank 0 has a sink.
struct Ends {
  ClipSource& source;
  SampleSink* sink;
  Verifier* verifier;
  Job* job;
};

Totals run_pieces(const RunArguments& arguments, const AnyModel& model, const ModelOptions& options, const Ends& ends) {
  using Clock = std::chrono::steady_clock;
  const Overrides overrides = read_overrides(arguments);
  Totals totals;
  Progress progress(ends.source.total_frames());
  while (const std::optional<Clip> clip = ends.source.next()) {
    warn_of_single_frames(arguments, model, *clip, options.on_warning);
    const ForwardOptions call = forward_options(arguments, *clip, overrides, options.on_warning);
    const SpatialArguments more{clip->attention_mask, clip->encoder_attention_mask, clip->image_only_indicator};
    const auto start = Clock::now();
    Tensor sample = forward_piece(model, *clip, call, more, ends.job);
    totals.spent += Clock::now() - start;
    if (ends.verifier != nullptr) ends.verifier->check(clip->hidden_states, call, more, sample);
    totals.rows += clip->hidden_states.size(0);
    progress.advance(clip->hidden_states.size(0));
    if (ends.sink != nullptr) ends.sink->append(std::move(sample));
  }
  return totals;
}

void run_in(const RunArguments& arguments, Job* job) {
  // Rank 0 writes, and says what all ranks would.
  const bool first = is_first(job);
  ModelOptions options = model_options(arguments);
  if (!first) options.on_warning = [](std::string_view) {};
  const ModelPlace place{arguments.model, arguments.module, arguments.select};
  const AnyModel model = open_any(place, options);
  if (job != nullptr) check_job(arguments, model);
  const auto source = open_clip(arguments.input, frames_of_video(arguments), arguments.patch);
  if (source->video() != nullptr) check_video(config_of(model), arguments.patch);
  std::optional<Verifier> verifier;
  if (arguments.verify) verifier.emplace(place, options);
  const auto sink = first ? open_sample(arguments.output, source->video(), arguments.patch) : nullptr;
  const Totals totals =
      run_pieces(arguments, model, options, {*source, sink.get(), verifier ? &*verifier : nullptr, job});
  if (verifier) verifier->conclude(model);
  if (!first) return;
  sink->finish();
  say(counted(totals.rows, "frame") + " in " + with_decimals(std::chrono::duration<double>(totals.spent).count(), 3) +
      " s (" + engine_of(mixin(model)) + (job != nullptr ? ", " + counted(job->ranks().size(), "rank") : "") + ")");
}

void run(const RunArguments& arguments) {
  check_paths(arguments);
  check_context(arguments);
  const std::unique_ptr<Job> job = join_job(std::chrono::seconds(arguments.patience));
  together(job.get(), [&] { run_in(arguments, job.get()); });
}

void add_conditioning(CLI::App& command, RunArguments& arguments) {
  command
      .add_option("--encoder-hidden-states", arguments.encoder_hidden_states,
                  "Conditioning from a .safetensors or .npy file")
      ->type_name("FILE");
  command.add_option("--timestep", arguments.timestep, "One, or one for each video, separated by commas")
      ->delimiter(',')
      ->check(number(-1e12, 1e12))
      ->type_name("X,...");
  command.add_option("--class-labels", arguments.class_labels, "One, or one for each video, separated by commas")
      ->delimiter(',')
      ->check(whole_number(0))
      ->type_name("N,...");
}

void add_context(CLI::App& command, RunArguments& arguments) {
  add_whole_number(command, "--context-length", arguments.context_length, 1,
                   "FreeNoise: attention in windows of so many frames, for clips longer than those of the training");
  add_whole_number(command, "--context-stride", arguments.context_stride, 1,
                   "Frames from one window to the next, at most its length (default: 4)");
  add_choice(command, "--context-weighting", arguments.context_weighting,
             {std::string(name_of(ContextWeighting::flat)), std::string(name_of(ContextWeighting::pyramid)),
              std::string(name_of(ContextWeighting::delayed_reverse_sawtooth))},
             "Weights of a window's frames where windows overlap (default: pyramid)");
}

}  // namespace

void add_run(CLI::App& program) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* command = program.add_subcommand("run", "Run a clip through a model");
  command
      ->add_option("-m,--model", arguments->model,
                   "Model folder, as diffusers' save_pretrained writes it, or any checkpoint of docs/checkpoints.md")
      ->type_name("PATH")
      ->required();
  command->add_option("--module", arguments->module, "Which module of a checkpoint (see inspect)")->type_name("NAME");
  command
      ->add_option(
          "-i,--input", arguments->input,
          ".safetensors (hidden_states, encoder_hidden_states, timestep, class_labels, and what the model's class "
          "takes of attention_mask, encoder_attention_mask, image_only_indicator), .npy, .y4m, or - for a pipe "
          "of .y4m")
      ->type_name("FILE")
      ->required();
  command->add_option("-o,--output", arguments->output, ".safetensors (sample), .npy, .y4m, or - for a pipe of .y4m")
      ->type_name("FILE")
      ->required();
  add_whole_number(*command, "--num-frames", arguments->num_frames, 1,
                   "Frames of one clip (default: 1 for tensors, as in diffusers; 16 for video)");
  add_whole_number(*command, "--patch", arguments->patch, 1, 64,
                   "Video: pixels across one latent; channels are 3 x patch x patch")
      ->capture_default_str();
  add_context(*command, *arguments);
  add_extend_positions(*command, arguments->positions);
  add_conditioning(*command, *arguments);
  add_engine_options(*command, arguments->engine);
  add_choice(*command, "--group-norm-scope", arguments->group_norm_scope, {"clip", "frame"},
             "Override the configuration's group_norm_scope");
  add_variant(*command, arguments->variant);
  add_select(*command, arguments->select);
  add_lenient(*command, arguments->lenient);
  command->add_flag("--verify", arguments->verify,
                    "Also run the reference engine, report the worst difference, and fail if it is too large");
  add_patience(*command, arguments->patience);
  command->footer(
      "Examples, of one module of a checkpoint, and of a model for patches of 8 x 8 pixels:\n"
      "  kineograph run -m mm_sd_v15_v2.ckpt --module mid_block.motion_modules.0 -i in.npy -o out.npy --num-frames 16\n"
      "  ffmpeg -v error -i clip.mp4 -f yuv4mpegpipe - |\n"
      "    kineograph run -m patches -i - -o - | ffmpeg -v error -i - out.mp4");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace kineograph::cli

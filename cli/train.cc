// kineograph train: a model that restores video.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/gathered.h"
#include "commands.h"
#include "job.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"
#include "train_checkpoint.h"
#include "train_record.h"
#include "train_settings.h"
#include "video/train/session.h"
#include "video/train/video.h"
#include "video/train/windows.h"

namespace kineograph::cli {

using namespace video;

namespace {

namespace fs = std::filesystem;

volatile std::sig_atomic_t received_signal = 0;

extern "C" void remember_signal(int signal) {
  received_signal = signal;
  // A second one does not wait.
  std::signal(signal, SIG_DFL);
}

// Drawn weights that learning starts from: proj_out is zero, so that the sample is the input; and every block's
// modulation is the identity, gates open, whatever timestep and label (DiT starts with closed gates, which for few
// layers only delays).
TransformerTemporalModel initial_model(const TransformerTemporalConfig& config, std::uint64_t seed) {
  const auto model = TransformerTemporalModel::from_config(config, seed);
  std::vector<Parameter> parameters = model.parameters();
  auto set = std::make_shared<std::vector<Tensor>>();
  for (Parameter& parameter : parameters) {
    const bool modulation = parameter.name.find(".norm1.linear.") != std::string::npos;
    if (!modulation && !parameter.name.starts_with("proj_out.")) continue;
    set->push_back(Tensor(DType::f32, parameter.value.shape()));
    if (modulation && parameter.name.ends_with(".bias")) {
      // shift, scale and gate of attn1, then of ff.
      const std::int64_t inner = config.inner_dim();
      for (const std::int64_t gate : {2 * inner, 5 * inner})
        std::fill_n(set->back().data_as<float>() + gate, inner, 1.0f);
    }
    parameter.value = set->back();
  }
  const auto owner = std::make_shared<std::pair<TransformerTemporalModel, std::shared_ptr<const void>>>(model, set);
  // The weights only pass through; the reference engine copies none before a call.
  return TransformerTemporalModel::from_state_dict(config, parameters, owner, {.engine = "reference"});
}

std::vector<std::shared_ptr<const WindowSource>> open_sources(const std::vector<std::string>& clips,
                                                              const WindowExtents& extents, bool speaks) {
  const std::int64_t memory = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) / 2;
  std::int64_t taken = 0;
  std::map<std::string, std::shared_ptr<const WindowSource>> opened;
  std::vector<std::shared_ptr<const WindowSource>> sources;
  for (const std::string& clip : clips) {
    auto& source = opened[clip];
    if (!source && clip == "drawn") source = drawn_windows();
    if (!source) {
      Video video = read_video(clip, memory - taken);
      taken += video.bytes();
      if (speaks)
        say(clip + ": " + std::to_string(video.length()) + " frames of " + std::to_string(video.width) + " x " +
            std::to_string(video.height));
      source = windows_of(std::move(video), extents);
    }
    sources.push_back(source);
  }
  return sources;
}

struct Beginning {
  TransformerTemporalModel model;
  std::optional<Checkpoint> checkpoint;  ///< of the run that is resumed
};

/// The model that the run starts with, from the command line or from the run in --output, whose settings are taken
/// over.
Beginning begin(const CLI::App& command, TrainArguments& arguments, const fs::path& checkpoint_file) {
  if (arguments.resume) {
    Checkpoint checkpoint = Checkpoint::open(checkpoint_file);
    const auto given = [&](const std::string& name) { return command.get_option("--" + name)->count() > 0; };
    const TransformerTemporalConfig config = adopt(checkpoint, given, arguments);
    return {stored_model(checkpoint, config), std::move(checkpoint)};
  }
  if (fs::exists(checkpoint_file))
    throw ArgumentError("--output", "a folder without a run", checkpoint_file.string(),
                        "--resume continues it; another folder starts anew.");
  if (arguments.settings.clips.empty()) throw CLI::RequiredError("--clips");
  if (arguments.config.empty() && arguments.init.empty())
    throw CLI::ValidationError("--config", "expected it or --init, found neither");
  if (!arguments.init.empty())
    return {TransformerTemporalModel::from_pretrained(arguments.init, {.engine = "reference"}), {}};
  return {initial_model(TransformerTemporalConfig::from_file(arguments.config), arguments.settings.seed), {}};
}

/// That ranks go on with one run. Past it all of them have read what rank 0 is going to write over.
void check_same_run(Job& job, const TrainingSession& session, const std::string& settings) {
  const std::uint64_t run = session.fingerprint() ^ std::hash<std::string>()(settings);
  const double mine[2] = {static_cast<double>(run >> 32), static_cast<double>(run & 0xffffffff)};
  const std::vector<double> all = gathered(job.ranks(), mine);
  for (std::size_t rank = 1; 2 * rank < all.size(); ++rank)
    if (all[2 * rank] != all[0] || all[2 * rank + 1] != all[1])
      throw ArgumentError("mpirun", "the same run on every rank",
                          "another on rank " + std::to_string(rank) + " than on rank 0",
                          "Options, clips and models have to be the same wherever a rank runs.");
}

/// That every rank has something to do.
void check_parts(const TrainingOptions& options, Job& job) {
  const std::int64_t ranks = job.ranks().size();
  if (options.parts() >= ranks) return;
  throw ArgumentError(
      "mpirun", "at most a rank for each " + counted(options.part_windows(), "window") + " that are computed at once",
      counted(ranks, "rank") + " for a step's " + counted(options.batches.batch, "window"),
      "A smaller --micro-batch makes more parts; --resume takes one, too.");
}

/// The signal that has come to this process or to another rank; 0 for none.
int signal_of(Job* job) {
  if (job == nullptr) return received_signal;
  const double mine = received_signal;
  const std::vector<double> all = gathered(job->ranks(), {&mine, 1});
  return static_cast<int>(*std::max_element(all.begin(), all.end()));
}

/// Steps until the run is over or a signal came, which is returned. Only the first process has a record.
int take_steps(TrainingSession& session, Record* record, Job* job) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    // Ignored signals stay ignored: nohup means to go on.
    if (std::signal(signal, remember_signal) == SIG_IGN) std::signal(signal, SIG_IGN);
  int signal = 0;
  while (!session.finished() && (signal = signal_of(job)) == 0) {
    const StepReport step = session.step();
    if (record != nullptr) record->add(step);
  }
  return signal;
}

void conclude(const TrainArguments& arguments, const TrainingSession& session, Record& record, Job* job) {
  record.finish();
  const std::string ranks = job == nullptr ? "" : ", " + counted(job->ranks().size(), "rank");
  if (session.finished())
    say("trained " + arguments.output + ": " + counted(session.steps_done(), "step") + ", " + record.state() + ranks);
  else
    say("interrupted after step " + std::to_string(session.steps_done()) +
        " and saved; kineograph train --resume --output " + arguments.output + " continues");
}

void train_in(const CLI::App& command, TrainArguments arguments, Job* job) {
  const bool first = is_first(job);
  const fs::path folder = arguments.output, checkpoint_file = folder / kCheckpointFile;
  for (std::string& clip : arguments.settings.clips)
    if (clip != "drawn") clip = fs::absolute(clip).lexically_normal().string();
  // One rank computes as any other number of them does.
  if (!arguments.resume && command.get_option("--micro-batch")->count() == 0 && ranks_started() != 0)
    arguments.micro_batch = 1;
  std::optional<FolderLock> lock;
  if (arguments.resume && first) lock.emplace(folder);
  Beginning beginning = begin(command, arguments, checkpoint_file);
  const TransformerTemporalConfig config = beginning.model.config();
  const TrainingOptions options =
      arguments.resume ? resumed_options(checkpoint_file.string(), arguments, config) : complete(arguments, config);
  if (job != nullptr) check_parts(options, *job);
  ModelOptions engine;
  engine.engine = arguments.engine;
  TrainingSession session(beginning.model, options,
                          open_sources(arguments.settings.clips, options.batches.extents, first), engine,
                          arguments.threads, job == nullptr ? nullptr : &job->ranks());
  if (beginning.checkpoint) session.load(*beginning.checkpoint);
  beginning.checkpoint.reset();
  const std::string remembered = to_json(arguments, config);
  if (job != nullptr) check_same_run(*job, session, remembered);

  std::optional<Record> record;
  if (first) {
    fs::create_directories(folder);
    if (!lock) lock.emplace(folder);
    record.emplace(arguments, session, remembered);
  }
  const int signal = take_steps(session, record ? &*record : nullptr, job);
  if (record) conclude(arguments, session, *record, job);
  if (!session.finished()) throw ExitCode{128 + signal};
}

void train(const CLI::App& command, const TrainArguments& arguments) {
  const std::unique_ptr<Job> job = join_job(std::chrono::seconds(arguments.patience));
  together(job.get(), [&] { train_in(command, arguments, job.get()); });
}

}  // namespace

void add_train(CLI::App& program) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = program.add_subcommand("train", "Train a model that restores video");
  command
      ->add_option("-o,--output", arguments->output,
                   "Folder to write: the model, checkpoint.safetensors, log.csv, loss.svg")
      ->type_name("FOLDER")
      ->required();
  auto* config =
      command->add_option("--config", arguments->config, "A config.json; the weights are drawn")->type_name("FILE");
  command->add_option("--init", arguments->init, "A model folder to start from")->type_name("FOLDER")->excludes(config);
  command->add_flag("--resume", arguments->resume,
                    "Continue the run in --output, as if it had never stopped; its settings are known");
  each_setting(arguments->settings, [&](const char* name, const char* text, double least, double most, auto& value) {
    using Value = std::decay_t<decltype(value)>;
    CLI::Option* option = command->add_option(std::string("--") + name, value, text);
    if constexpr (std::is_floating_point_v<Value>) {
      option->check(number(least, most))->type_name("X");
    } else if constexpr (std::is_integral_v<Value>) {
      const bool bounded = most < 0x1p63;
      const auto from = static_cast<std::int64_t>(least);
      option->check(bounded ? whole_number(from, static_cast<std::int64_t>(most)) : whole_number(from))->type_name("N");
    }
    if constexpr (std::is_arithmetic_v<Value>) {
      if (value != 0) option->capture_default_str();
    } else if constexpr (std::is_same_v<Value, std::string>) {
      option->capture_default_str();
    }
  });
  add_whole_number(*command, "--checkpoint-every", arguments->checkpoint_every, 1,
                   "Steps from one checkpoint to the next")
      ->capture_default_str();
  add_stored_dtype(*command, arguments->dtype, {"f32", "bf16"},
                   "Type the model's weights are stored in; training is in f32");
  add_engine_choice(*command, arguments->engine, arguments->threads);
  add_whole_number(*command, "--micro-batch", arguments->micro_batch, 0, kMostWindows,
                   "Windows computed at once, whose gradients are added in the batch's order; 0 for all (default: 0, "
                   "under mpirun 1)");
  add_patience(*command, arguments->patience);
  command->footer(
      "Example:\n"
      "  kineograph train --clips a.mp4 b.mp4 drawn --config examples/train/restore.json --output restorer");
  command->callback([arguments, command] { train(*command, *arguments); });
}

}  // namespace kineograph::cli

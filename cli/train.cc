// kineograph train: a model that restores video.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"
#include "progress.h"
#include "train_checkpoint.h"
#include "train_settings.h"
#include "video/train/log.h"
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
                                                              const WindowExtents& extents) {
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
      say(clip + ": " + std::to_string(video.length()) + " frames of " + std::to_string(video.width) + " x " +
          std::to_string(video.height));
      source = windows_of(std::move(video), extents);
    }
    sources.push_back(source);
  }
  return sources;
}

/// A folder that this run has for itself until it ends: two would write over each other's files.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder)
      : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ < 0)
      throw IoError(folder.string(), "a folder that can be opened", std::error_code(errno, std::generic_category()));
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
    ::close(descriptor_);
    throw IoError(folder.string(), "a folder that no other training writes to", "one that a training writes to");
  }
  ~FolderLock() { ::close(descriptor_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
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

/// The losses and the speed as text, for the bar and for lines of a log.
class Report {
 public:
  Report(const TrainingSession& session, const TrainingLog& log)
      : session_(session), log_(log), from_(session.steps_done()) {}

  std::string loss() const { return "loss " + short_number(log_.recent_loss()); }
  std::string state() const {
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    const double speed = static_cast<double>(session_.steps_done() - from_) / std::max(seconds, 1e-9);
    return loss() + ", " + short_number(speed) + " steps/s, " +
           short_number(speed * static_cast<double>(session_.tokens_per_step())) + " tokens/s";
  }

 private:
  using Clock = std::chrono::steady_clock;
  const TrainingSession& session_;
  const TrainingLog& log_;
  std::int64_t from_;
  Clock::time_point start_ = Clock::now();
};

/// Steps until the run is over or a signal came; saves now and then.
template <class Save>
void take_steps(const TrainArguments& arguments, TrainingSession& session, TrainingLog& log, const Report& report,
                const Save& save) {
  Progress progress(arguments.settings.steps, "steps");
  progress.begin_at(session.steps_done());
  while (!session.finished() && received_signal == 0) {
    log.add(session.step());
    progress.note(report.loss());
    progress.advance(1);
    if (session.steps_done() % arguments.checkpoint_every != 0 || session.finished()) continue;
    save();
    if (!progress.on_terminal()) say("step " + std::to_string(session.steps_done()) + ": " + report.state());
  }
}

void train(const CLI::App& command, TrainArguments arguments) {
  const fs::path folder = arguments.output, checkpoint_file = folder / "checkpoint.safetensors";
  for (std::string& clip : arguments.settings.clips)
    if (clip != "drawn") clip = fs::absolute(clip).lexically_normal().string();
  std::optional<FolderLock> lock;
  if (arguments.resume) lock.emplace(folder);
  Beginning beginning = begin(command, arguments, checkpoint_file);
  const TransformerTemporalConfig config = beginning.model.config();
  const TrainingOptions options =
      arguments.resume ? resumed_options(checkpoint_file.string(), arguments, config) : complete(arguments, config);
  ModelOptions engine;
  engine.engine = arguments.engine;
  TrainingSession session(beginning.model, options, open_sources(arguments.settings.clips, options.batches.extents),
                          engine, arguments.threads);
  if (beginning.checkpoint) session.load(*beginning.checkpoint);
  beginning.checkpoint.reset();

  fs::create_directories(folder);
  if (!lock) lock.emplace(folder);
  const std::string remembered = to_json(arguments, config);
  TrainingLog log(folder, session.steps_done());
  const auto save = [&] {
    session.save(checkpoint_file, remembered);
    session.save_model(folder, dtype_named(arguments.dtype));
    log.plot();
  };
  // A folder that cannot be written to, or a full disk, should say so before the work.
  if (!arguments.resume) save();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    // Ignored signals stay ignored: nohup means to go on.
    if (std::signal(signal, remember_signal) == SIG_IGN) std::signal(signal, SIG_IGN);
  const Report report(session, log);
  take_steps(arguments, session, log, report, save);
  save();
  if (session.finished()) {
    say("trained " + arguments.output + ": " + counted(session.steps_done(), "step") + ", " + report.state());
    return;
  }
  say("interrupted after step " + std::to_string(session.steps_done()) +
      " and saved; kineograph train --resume --output " + arguments.output + " continues");
  throw ExitCode{128 + received_signal};
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
  command->footer(
      "Example:\n"
      "  kineograph train --clips a.mp4 b.mp4 drawn --config examples/train/restore.json --output restorer");
  command->callback([arguments, command] { train(*command, *arguments); });
}

}  // namespace kineograph::cli

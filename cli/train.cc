// kineograph train: a model that restores video.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/threads.h"
#include "commands.h"
#include "kineograph/kineograph.h"
#include "progress.h"
#include "video/restore/restoration.h"
#include "video/train/log.h"
#include "video/train/session.h"
#include "video/train/video.h"
#include "video/train/windows.h"

namespace kineograph::cli {

using namespace video;

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// What a run's result depends on, besides the configuration.
struct Settings {
  std::vector<std::string> clips;
  std::string noise_level = "5:55", damage = "0.9:0.05:0.05";
  std::int64_t steps = 20000, batch = 8, frames = 0, crop = 64, patches = 0, warmup = 200;
  double learning_rate = 1e-3, weight_decay = 0.01, clip_norm = 1, ema = 0.999;
  std::uint64_t seed = 0;
};

// The one table of them: options of the command line, and what a checkpoint remembers. `visit` takes the option's name,
// what it is, the least and the most for a number, and the value.
template <class Visit>
void each_setting(Settings& s, const Visit& visit) {
  constexpr double kMany = 1e12;
  visit("clips", "Videos to learn from: .y4m, anything ffmpeg decodes, or drawn for drawn motion. Each is as likely",
        0.0, 0.0, s.clips);
  visit("noise-level", "Deviation of the noise, from LO:HI levels of 255", 0.0, 0.0, s.noise_level);
  visit("damage", "How likely windows have NOISE:FLICKER:BOTH", 0.0, 0.0, s.damage);
  visit("steps", "Steps of the whole run", 1.0, kMany, s.steps);
  visit("batch", "Windows of a step", 1.0, 65536.0, s.batch);
  visit("frames", "Frames of a window (default: what restore takes with this model)", 1.0, 65536.0, s.frames);
  visit("crop", "Pixels across and down a window", 1.0, 65536.0, s.crop);
  visit("patches", "Patches across and down a window, at random places of it; 0 for all that tile it", 0.0, 65536.0,
        s.patches);
  visit("learning-rate", "The highest: after the warm-up it falls as half a cosine", 0.0, 1.0, s.learning_rate);
  visit("warmup", "Steps in which the learning rate rises", 0.0, kMany, s.warmup);
  visit("weight-decay", "AdamW's decoupled decay, not of biases, norms and embeddings", 0.0, 1000.0, s.weight_decay);
  visit("clip-norm", "The gradient's largest norm; 0 for any", 0.0, kMany, s.clip_norm);
  visit("ema", "Decay of the weights' moving average, which is the model that is saved", 0.0, 1.0, s.ema);
  visit("seed", "Same seed, same run", 0.0, 0x1p63, s.seed);
}

struct TrainArguments {
  Settings settings;
  std::string config, init, output, dtype = "f32", engine = "auto";
  std::int64_t checkpoint_every = 500;
  int threads = 0;
  bool resume = false;
};

constexpr int kMostThreads = 65536;

std::vector<std::string> engine_names() {
  std::vector<std::string> names = engines();
  names.insert(names.begin(), "auto");
  return names;
}

volatile std::sig_atomic_t received_signal = 0;

extern "C" void remember_signal(int signal) {
  received_signal = signal;
  // A second one does not wait.
  std::signal(signal, SIG_DFL);
}

// "5:55" as numbers.
std::vector<double> parse_numbers(const std::string& option, const std::string& text, std::size_t count, double most) {
  std::vector<double> numbers;
  const char* from = text.data();
  const char* const end = from + text.size();
  while (numbers.size() < count) {
    double value = 0;
    const auto [rest, error] = std::from_chars(from, end, value);
    if (error != std::errc() || !(value >= 0 && value <= most)) break;
    numbers.push_back(value);
    from = rest;
    if (from == end || *from != ':') break;
    ++from;
  }
  if (numbers.size() != count || from != end)
    throw CLI::ValidationError("--" + option, "expected " + std::to_string(count) + " numbers from 0 to " +
                                                  Json(most).dump() + " between colons, found " + text);
  return numbers;
}

BatchOptions batch_options(const Settings& settings, const TransformerTemporalConfig& config) {
  const std::int64_t patch = patch_of(config);
  BatchOptions options;
  options.config = config;
  options.patches = settings.patches;
  options.batch = settings.batch;
  options.extents = {settings.frames, settings.crop};
  options.patch = patch;
  options.seed = settings.seed;
  const auto sigma = parse_numbers("noise-level", settings.noise_level, 2, 255);
  if (sigma[0] > sigma[1])
    throw CLI::ValidationError("--noise-level", "expected LO:HI with LO at most HI, found " + settings.noise_level);
  options.damage.least_sigma = sigma[0];
  options.damage.most_sigma = sigma[1];
  const auto likely = parse_numbers("damage", settings.damage, 3, 1);
  if (likely[0] + likely[1] + likely[2] <= 0)
    throw CLI::ValidationError("--damage", "expected one that is likely, found " + settings.damage);
  std::copy(likely.begin(), likely.end(), options.damage.probabilities.begin());
  if (settings.crop % patch != 0 || settings.crop < patch)
    throw CLI::ValidationError("--crop", "expected a multiple of the model's patch, " + std::to_string(patch) +
                                             ", found " + std::to_string(settings.crop));
  return options;
}

TrainingOptions training_options(const Settings& settings, const TransformerTemporalConfig& config) {
  if (settings.warmup >= settings.steps && settings.warmup > 0)
    throw CLI::ValidationError("--warmup", "expected fewer than the " + std::to_string(settings.steps) +
                                               " steps, found " + std::to_string(settings.warmup));
  TrainingOptions options;
  options.steps = settings.steps;
  options.warmup = settings.warmup;
  options.learning_rate = settings.learning_rate;
  options.clip_norm = settings.clip_norm;
  options.ema = settings.ema;
  options.adamw.weight_decay = settings.weight_decay;
  options.batches = batch_options(settings, config);
  return options;
}

// Drawn weights that learning starts from: proj_out is zero, so that the sample is the input; and every block's
// modulation is the identity, gates open, whatever timestep and label (DiT starts with closed gates, which for few
// layers only delays).
TransformerTemporalModel initial_model(const TransformerTemporalConfig& config, std::uint64_t seed) {
  // The weights only pass through; the reference engine copies none before a call.
  const ModelOptions options{.engine = "reference"};
  const auto model = TransformerTemporalModel::from_config(config, seed, options);
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
  return TransformerTemporalModel::from_state_dict(config, parameters, owner, options);
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

Json to_json(TrainArguments arguments, const TransformerTemporalConfig& config) {
  Json json;
  each_setting(arguments.settings,
               [&](const char* name, const char*, double, double, auto& value) { json[name] = value; });
  json["config"] = Json::parse(config.to_json());
  json["engine"] = arguments.engine;
  json["threads"] = arguments.threads;
  json["dtype"] = arguments.dtype;
  return json;
}

/// Of a checkpoint, which may be a stranger's: what the command line would refuse is refused there too. Before a number
/// is converted, as one beyond the type's range has no value there.
void check_stored_number(const std::string& where, const std::string& name, const Json& stored, double least,
                         double most) {
  if (!stored.is_number() || !(stored.get<double>() >= least && stored.get<double>() <= most))
    throw CheckpointError(where + ": " + name, "a number from " + Json(least).dump() + " to " + Json(most).dump(),
                          stored.dump());
}
void check_stored(const std::string& where, const TrainArguments& arguments) {
  if (arguments.settings.clips.empty()) throw CheckpointError(where + ": clips", "at least one clip", "none");
  const std::vector<std::string> engines = engine_names();
  if (std::find(engines.begin(), engines.end(), arguments.engine) == engines.end())
    throw CheckpointError(where + ": engine", "an engine of this program", arguments.engine);
  if (arguments.dtype != "f32" && arguments.dtype != "bf16")
    throw CheckpointError(where + ": dtype", "f32 or bf16", arguments.dtype);
}

/// The weights of a checkpoint as a model, so that a small file of a large configuration is refused before any memory
/// is taken for it.
TransformerTemporalModel stored_model(const Checkpoint& checkpoint, const TransformerTemporalConfig& config) {
  constexpr std::string_view kPrefix = "weights.";
  std::vector<Parameter> weights;
  for (const auto& [name, view] : checkpoint.tensors())
    if (name.starts_with(kPrefix)) weights.push_back({name.substr(kPrefix.size()), view});
  return TransformerTemporalModel::from_state_dict(config, weights, checkpoint.owner(), {.engine = "reference"});
}

/// A folder that this run has for itself until it ends: two would write over each other's files.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder)
      : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ < 0) throw IoError(folder.string(), "a folder that can be opened", std::strerror(errno));
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

// Takes from a checkpoint what the command line does not say, and refuses what it says otherwise.
TransformerTemporalConfig adopt(const Checkpoint& checkpoint, const CLI::App& command, TrainArguments& arguments) {
  const std::string where = checkpoint.files().front().string();
  const auto found = checkpoint.metadata().find("settings");
  if (found == checkpoint.metadata().end())
    throw CheckpointError(where, "a checkpoint of kineograph train", "no settings");
  try {
    const auto stored = checkpoint::parse_json<Json, CheckpointError>(found->second, where + ": settings");
    const auto hold = [&](const std::string& name, const Json& given) {
      if (given == stored.at(name)) return;
      throw ArgumentError("--" + name, stored.at(name).dump() + ", as the run in " + arguments.output + " has it",
                          given.dump(), "Leave it out, or start a new run in another folder.");
    };
    each_setting(arguments.settings, [&](const char* name, const char*, double least, double most, auto& value) {
      if (command.get_option(std::string("--") + name)->count() > 0) hold(name, Json(value));
      if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>)
        check_stored_number(where, name, stored.at(name), least, most);
      stored.at(name).get_to(value);
    });
    // These may change on the way; where nobody says, they stay, so that not even the last bit differs.
    const auto keep = [&](const std::string& name, auto& value) {
      if (command.get_option("--" + name)->count() == 0) stored.at(name).get_to(value);
    };
    check_stored_number(where, "threads", stored.at("threads"), 0, kMostThreads);
    keep("engine", arguments.engine);
    keep("threads", arguments.threads);
    keep("dtype", arguments.dtype);
    check_stored(where, arguments);
    const auto config = TransformerTemporalConfig::from_json(stored.at("config").dump(), where);
    if (!arguments.config.empty())
      hold("config", Json::parse(TransformerTemporalConfig::from_file(arguments.config).to_json()));
    return config;
  } catch (const Json::exception& error) {
    throw CheckpointError(where, "the settings of a run", error.what());
  }
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

void train(const CLI::App& command, TrainArguments arguments) {
  const fs::path folder = arguments.output, checkpoint_file = folder / "checkpoint.safetensors";
  for (std::string& clip : arguments.settings.clips)
    if (clip != "drawn") clip = fs::absolute(clip).lexically_normal().string();

  std::optional<FolderLock> lock;
  std::optional<Checkpoint> checkpoint;
  std::optional<TransformerTemporalModel> initial;
  if (arguments.resume) lock.emplace(folder);
  if (arguments.resume) {
    checkpoint = Checkpoint::open(checkpoint_file);
    initial = stored_model(*checkpoint, adopt(*checkpoint, command, arguments));
  } else {
    if (fs::exists(checkpoint_file))
      throw ArgumentError("--output", "a folder without a run", checkpoint_file.string(),
                          "--resume continues it; another folder starts anew.");
    if (arguments.settings.clips.empty()) throw CLI::RequiredError("--clips");
    if (arguments.config.empty() == arguments.init.empty())
      throw CLI::ValidationError("train", "one of --config and --init is needed");
    initial = arguments.init.empty()
                  ? initial_model(TransformerTemporalConfig::from_file(arguments.config), arguments.settings.seed)
                  : TransformerTemporalModel::from_pretrained(arguments.init, {.engine = "reference"});
  }
  Settings& settings = arguments.settings;
  const TransformerTemporalConfig config = initial->config();
  patch_of(config);  // refuses a model for something else
  if (settings.frames == 0) settings.frames = default_window(config);
  if (config.num_positional_embeddings && settings.frames > *config.num_positional_embeddings)
    throw CLI::ValidationError("--frames", "expected at most the model's num_positional_embeddings, " +
                                               std::to_string(*config.num_positional_embeddings) + ", found " +
                                               std::to_string(settings.frames));
  const TrainingOptions options = training_options(settings, config);
  ModelOptions engine;
  if (arguments.engine == "auto") arguments.engine = engines().front();
  engine.engine = arguments.engine;
  // A run keeps the number that it was started with.
  arguments.threads = thread_count(arguments.threads);
  TrainingSession session(*initial, options, open_sources(settings.clips, options.batches.extents), engine,
                          arguments.threads);
  if (checkpoint) session.load(*checkpoint);
  checkpoint.reset();

  fs::create_directories(folder);
  if (!lock) lock.emplace(folder);
  const std::string remembered = to_json(arguments, config).dump();
  const DType dtype = arguments.dtype == "bf16" ? DType::bf16 : DType::f32;
  TrainingLog log(folder, session.steps_done());
  const auto save = [&] {
    session.save(checkpoint_file, remembered);
    session.save_model(folder, dtype);
    log.plot();
  };
  // A folder that cannot be written to, or a full disk, should say so before the work.
  if (!arguments.resume) save();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    // What is ignored stays so: nohup means to go on.
    if (std::signal(signal, remember_signal) == SIG_IGN) std::signal(signal, SIG_IGN);

  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const std::int64_t from = session.steps_done();
  const auto speed = [&] {
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return static_cast<double>(session.steps_done() - from) / std::max(seconds, 1e-9);
  };
  const auto state = [&] {
    return "loss " + short_number(log.recent_loss()) + ", " + short_number(speed()) + " steps/s, " +
           short_number(speed() * static_cast<double>(session.tokens_per_step())) + " tokens/s";
  };
  {
    Progress progress(settings.steps, "steps");
    progress.advance(from);
    while (!session.finished() && received_signal == 0) {
      log.add(session.step());
      progress.note(state());
      progress.advance(1);
      if (session.steps_done() % arguments.checkpoint_every == 0 && !session.finished()) {
        save();
        if (!progress.on_terminal()) say("step " + std::to_string(session.steps_done()) + ": " + state());
      }
    }
  }
  save();
  if (session.finished()) {
    say("trained " + arguments.output + ": " + std::to_string(session.steps_done()) + " steps, " + state());
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
      ->add_option("--output", arguments->output,
                   "Folder to write: the model, checkpoint.safetensors, log.csv, loss.svg")
      ->required();
  auto* config = command->add_option("--config", arguments->config, "A config.json; the weights are drawn");
  command->add_option("--init", arguments->init, "A model folder to start from")->excludes(config);
  command->add_flag("--resume", arguments->resume,
                    "Continue the run in --output, as if it had never stopped; its settings are known");
  each_setting(arguments->settings, [&](const char* name, const char* text, double least, double most, auto& value) {
    CLI::Option* option = command->add_option(std::string("--") + name, value, text);
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
      option->check(CLI::Range(least, most));
      if (value != 0) option->capture_default_str();
    } else if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
      option->capture_default_str();
    }
  });
  command->add_option("--checkpoint-every", arguments->checkpoint_every, "Steps from one checkpoint to the next")
      ->check(CLI::Range(std::int64_t{1}, std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str();
  command->add_option("--dtype", arguments->dtype, "Type the model's weights are stored in; training is in f32")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--engine", arguments->engine, "Engine to compute with")
      ->check(CLI::IsMember(engine_names()))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads; 0 for KINEOGRAPH_NUM_THREADS or all cores")
      ->check(CLI::Range(0, kMostThreads))
      ->capture_default_str();
  command->footer(
      "Example:\n  kineograph train --clips a.mp4 b.mp4 drawn --config examples/train/restore.json --output restorer/");
  command->callback([arguments, command] { train(*command, *arguments); });
}

}  // namespace kineograph::cli

#include "train_checkpoint.h"

#include <algorithm>
#include <optional>
#include <type_traits>
#include <vector>

#include "base/json.h"
#include "base/threads.h"
#include "options.h"
#include "video/restore/restoration.h"

namespace kineograph::cli {

using namespace video;

namespace {

/// Before a number is converted, as one beyond the type's range has no value there.
void check_stored_number(const std::string& where, const std::string& name, const Json& stored, bool whole,
                         double least, double most) {
  const bool known = !whole || stored.as<std::int64_t>() || stored.as<std::uint64_t>();
  const std::optional<double> number = stored.as<double>();
  if (!known || !number || !(*number >= least && *number <= most))
    throw CheckpointError(
        where + ": " + name,
        std::string(whole ? "a whole number" : "a number") + " from " + Json(least).dump() + " to " + Json(most).dump(),
        stored.dump());
}

/// The setting as it is stored. Throws CheckpointError where there is none.
const Json& setting(const Json& stored, const std::string& name, const std::string& where) {
  if (const Json* const found = stored.find(name)) return *found;
  throw CheckpointError(where + ": " + name, "a setting of a run", "none");
}

/// A list of texts is one of values.
template <class T>
Json to_value(const T& value) {
  if constexpr (std::is_same_v<T, std::vector<std::string>>)
    return Json::Array(value.begin(), value.end());
  else
    return value;
}

void check_stored(const std::string& where, const TrainArguments& arguments) {
  if (arguments.settings.clips.empty()) throw CheckpointError(where + ": clips", "at least one clip", "none");
  const std::vector<std::string> engines = engine_names();
  if (std::find(engines.begin(), engines.end(), arguments.engine) == engines.end())
    throw CheckpointError(where + ": engine", "an engine of this program", arguments.engine);
  if (arguments.dtype != "f32" && arguments.dtype != "bf16")
    throw CheckpointError(where + ": dtype", "f32 or bf16", arguments.dtype);
}

}  // namespace

std::string to_json(TrainArguments arguments, const TransformerTemporalConfig& config) {
  Json::Object json;
  each_setting(arguments.settings, [&](const char* name, const char*, double, double, auto& value) {
    json.emplace_back(name, to_value(value));
  });
  json.emplace_back("config", parse_json<ConfigError>(config.to_json(), "config"));
  json.emplace_back("engine", arguments.engine);
  json.emplace_back("threads", arguments.threads);
  json.emplace_back("micro-batch", arguments.micro_batch);
  json.emplace_back("dtype", arguments.dtype);
  return Json(std::move(json)).dump();
}

TransformerTemporalModel stored_model(const Checkpoint& checkpoint, const TransformerTemporalConfig& config) {
  constexpr std::string_view kPrefix = "weights.";
  std::vector<Parameter> weights;
  for (const auto& [name, view] : checkpoint.tensors())
    if (name.starts_with(kPrefix)) weights.push_back({name.substr(kPrefix.size()), view});
  return TransformerTemporalModel::from_state_dict(config, weights, checkpoint.owner(), {.engine = "reference"});
}

TransformerTemporalConfig adopt(const Checkpoint& checkpoint, const std::function<bool(const std::string&)>& given,
                                TrainArguments& arguments) {
  const std::string where = checkpoint.where();
  const auto found = checkpoint.metadata().find("settings");
  if (found == checkpoint.metadata().end())
    throw CheckpointError(where, "a checkpoint of kineograph train", "no settings");
  const Json stored = parse_json<CheckpointError>(found->second, where + ": settings");
  const auto hold = [&](const std::string& name, const Json& value) {
    const Json& kept = setting(stored, name, where);
    if (value == kept) return;
    throw ArgumentError("--" + name, kept.dump() + ", as the run in " + arguments.output + " has it", value.dump(),
                        "Leave it out, or start a new run in another folder.");
  };
  const auto take = [&](const std::string& name, auto& value) {
    value = member<std::decay_t<decltype(value)>, CheckpointError>(stored, name, where);
  };
  each_setting(arguments.settings, [&](const char* name, const char*, double least, double most, auto& value) {
    using Value = std::decay_t<decltype(value)>;
    if (given(name)) hold(name, to_value(value));
    if constexpr (std::is_arithmetic_v<Value>)
      check_stored_number(where, name, setting(stored, name, where), std::is_integral_v<Value>, least, most);
    take(name, value);
  });
  // These may change on the way; by default they stay, so that not even the last bit differs.
  const auto keep = [&](const std::string& name, auto& value) {
    if (!given(name)) take(name, value);
  };
  check_stored_number(where, "threads", setting(stored, "threads", where), true, 0, kMostThreads);
  keep("engine", arguments.engine);
  keep("threads", arguments.threads);
  keep("dtype", arguments.dtype);
  if (const Json* const micro_batch = stored.find("micro-batch")) {
    check_stored_number(where, "micro-batch", *micro_batch, true, 0, kMostWindows);
    keep("micro-batch", arguments.micro_batch);
  }
  check_stored(where, arguments);
  const auto config = TransformerTemporalConfig::from_json(setting(stored, "config", where).dump(), where);
  if (!arguments.config.empty()) {
    const std::string wanted = TransformerTemporalConfig::from_file(arguments.config).to_json();
    hold("config", parse_json<ConfigError>(wanted, arguments.config));
  }
  return config;
}

TrainingOptions complete(TrainArguments& arguments, const TransformerTemporalConfig& config) {
  patch_of(config);
  Settings& settings = arguments.settings;
  if (settings.frames == 0) settings.frames = default_window(config);
  if (config.num_positional_embeddings && settings.frames > *config.num_positional_embeddings)
    throw CLI::ValidationError("--frames", "expected at most the model's num_positional_embeddings, " +
                                               std::to_string(*config.num_positional_embeddings) + ", found " +
                                               std::to_string(settings.frames));
  if (arguments.micro_batch > settings.batch)
    throw CLI::ValidationError("--micro-batch", "expected at most the windows of a step, " +
                                                    std::to_string(settings.batch) + ", found " +
                                                    std::to_string(arguments.micro_batch));
  if (arguments.engine == "auto") arguments.engine = engines().front();
  // A run keeps the number that it was started with.
  arguments.threads = thread_count(arguments.threads);
  TrainingOptions options = training_options(settings, config);
  options.micro_batch = arguments.micro_batch;
  return options;
}

TrainingOptions resumed_options(const std::string& where, TrainArguments& arguments,
                                const TransformerTemporalConfig& config) {
  try {
    return complete(arguments, config);
  } catch (const CLI::ValidationError& error) {
    throw CheckpointError(where, "settings that the command line takes", error.what());
  }
}

}  // namespace kineograph::cli

#include "train_checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <vector>

#include "base/json.h"
#include "base/threads.h"
#include "options.h"
#include "video/restore/restoration.h"

namespace kineograph::cli {

using namespace video;

namespace {

using Json = nlohmann::ordered_json;

/// Before a number is converted, as one beyond the type's range has no value there.
void check_stored_number(const std::string& where, const std::string& name, const Json& stored, bool whole,
                         double least, double most) {
  const bool known = whole ? stored.is_number_integer() : stored.is_number();
  if (!known || !(stored.get<double>() >= least && stored.get<double>() <= most))
    throw CheckpointError(
        where + ": " + name,
        std::string(whole ? "a whole number" : "a number") + " from " + Json(least).dump() + " to " + Json(most).dump(),
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

}  // namespace

std::string to_json(TrainArguments arguments, const TransformerTemporalConfig& config) {
  Json json;
  each_setting(arguments.settings,
               [&](const char* name, const char*, double, double, auto& value) { json[name] = value; });
  json["config"] = Json::parse(config.to_json());
  json["engine"] = arguments.engine;
  json["threads"] = arguments.threads;
  json["micro-batch"] = arguments.micro_batch;
  json["dtype"] = arguments.dtype;
  return json.dump();
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
  try {
    const auto stored = checkpoint::parse_json<Json, CheckpointError>(found->second, where + ": settings");
    const auto hold = [&](const std::string& name, const Json& value) {
      if (value == stored.at(name)) return;
      throw ArgumentError("--" + name, stored.at(name).dump() + ", as the run in " + arguments.output + " has it",
                          value.dump(), "Leave it out, or start a new run in another folder.");
    };
    each_setting(arguments.settings, [&](const char* name, const char*, double least, double most, auto& value) {
      using Value = std::decay_t<decltype(value)>;
      if (given(name)) hold(name, Json(value));
      if constexpr (std::is_arithmetic_v<Value>)
        check_stored_number(where, name, stored.at(name), std::is_integral_v<Value>, least, most);
      stored.at(name).get_to(value);
    });
    // These may change on the way; by default they stay, so that not even the last bit differs.
    const auto keep = [&](const std::string& name, auto& value) {
      if (!given(name)) stored.at(name).get_to(value);
    };
    check_stored_number(where, "threads", stored.at("threads"), true, 0, kMostThreads);
    keep("engine", arguments.engine);
    keep("threads", arguments.threads);
    keep("dtype", arguments.dtype);
    if (stored.contains("micro-batch")) {
      check_stored_number(where, "micro-batch", stored.at("micro-batch"), true, 0, kMostWindows);
      keep("micro-batch", arguments.micro_batch);
    }
    check_stored(where, arguments);
    const auto config = TransformerTemporalConfig::from_json(stored.at("config").dump(), where);
    if (!arguments.config.empty())
      hold("config", Json::parse(TransformerTemporalConfig::from_file(arguments.config).to_json()));
    return config;
  } catch (const Json::exception& error) {
    throw CheckpointError(where, "the settings of a run", error.what());
  }
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

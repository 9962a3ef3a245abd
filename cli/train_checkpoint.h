// The settings that a training run's checkpoint.safetensors remembers beside its weights. It may be a stranger's:
// values that the command line would refuse are refused there too.
#pragma once

#include <functional>
#include <string>

#include "kineograph/kineograph.h"
#include "train_settings.h"

namespace kineograph::cli {

/// The settings of a run as JSON, the text in the checkpoint's metadata.
std::string to_json(TrainArguments arguments, const TransformerTemporalConfig& config);

/// Takes from a checkpoint what the command line does not say; `given` says which options it does. Throws ArgumentError
/// for one that differs from the run's, CheckpointError for settings that are none.
TransformerTemporalConfig adopt(const Checkpoint& checkpoint, const std::function<bool(const std::string&)>& given,
                                TrainArguments& arguments);

/// The weights of a checkpoint as a model, so that a small file of a large configuration is refused before any memory
/// is taken for it.
TransformerTemporalModel stored_model(const Checkpoint& checkpoint, const TransformerTemporalConfig& config);

/// Settles what was left open. Throws CLI::ValidationError for settings that do not fit together or the model.
video::TrainingOptions complete(TrainArguments& arguments, const TransformerTemporalConfig& config);
/// The same of a run that is resumed, whose settings are those of the checkpoint `where`: throws CheckpointError.
video::TrainingOptions resumed_options(const std::string& where, TrainArguments& arguments,
                                       const TransformerTemporalConfig& config);

}  // namespace kineograph::cli

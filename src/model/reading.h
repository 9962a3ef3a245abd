// Parameters of a checkpoint as a model takes them: checksums compared, 8-bit floats widened.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/model.h"
#include "kineograph/modules.h"

namespace kineograph::model {

struct Reading {
  std::vector<Parameter> state_dict;
  std::shared_ptr<const void> owner;  ///< keeps the file and the widened weights
};

/// Why no model of `config` can be read of a module's tensors, each reason on a line of its own; empty where one can.
std::string problems_of(const ModelConfig& config, const CheckpointModule& module);

/// `state_dict`, of which parameter i is called `sources[i]` in the file. Throws FormatError.
Reading read(const Checkpoint& checkpoint, std::vector<Parameter> state_dict, const std::vector<std::string>& sources,
             const std::map<std::string, WeightScale>& scales);

/// All tensors of a checkpoint, scales of 8-bit weights left out. Throws FormatError, and CheckpointError for a scale
/// that is not known.
Reading read_whole(const Checkpoint& checkpoint);

}  // namespace kineograph::model

// What a checkpoint holds that has no temporal modules.
#pragma once

#include <string>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/error.h"

namespace kineograph::model {

/// The error for a checkpoint without modules of a `kind`: what it seems to hold, and what helps.
CheckpointError no_modules(const Checkpoint& checkpoint, const std::string& kind = "temporal");

/// The error for a checkpoint with sets of modules of a `kind` that differ, below `paths`.
CheckpointError several_sets(const Checkpoint& checkpoint, const std::string& kind,
                             const std::vector<std::string>& paths);

/// A line about quantised weights, for a module that cannot be read; empty where there are none.
std::string quantised(const Checkpoint& checkpoint);

}  // namespace kineograph::model

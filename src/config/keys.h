// Keys of a model's config.json.
#pragma once

#include "kineograph/config.h"

namespace kineograph::config {

/// Throws ConfigError for a field that the model's config.json has no key for and that is not at its default: it could
/// not be saved, and the model does not heed it.
void check_foreign_keys(const ModelConfig& config);

}  // namespace kineograph::config

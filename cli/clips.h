// Paths of clips on the command line, and the sentence about the engine that ran.
#pragma once

#include <string>

#include "kineograph/model.h"

namespace kineograph::cli {

/// Throws CLI::ValidationError for a path of no known kind, and for "-" on a terminal. `option` is --input or --output.
void check_clip_path(const std::string& option, const std::string& path);
/// Throws CLI::ValidationError for "-" on a terminal.
void refuse_terminal(const std::string& option, const std::string& path);

/// Throws IoError for a model's path at which there is nothing.
void check_model_path(const std::string& path);

/// "engine cpu, avx2, f32"
std::string engine_of(const ModelMixin& model);

}  // namespace kineograph::cli

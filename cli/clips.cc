#include "clips.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <system_error>

#include "kineograph/error.h"
#include "video/clip_io.h"

namespace kineograph::cli {

void refuse_terminal(const std::string& option, const std::string& path) {
  if (path != "-" || isatty(option == "--input" ? STDIN_FILENO : STDOUT_FILENO) == 0) return;
  throw CLI::ValidationError(option, option == "--input" ? "expected a pipe of .y4m on stdin, found a terminal"
                                                         : "expected a pipe for the .y4m on stdout, found a terminal");
}

void check_clip_path(const std::string& option, const std::string& path) {
  if (!video::kind_of(path))
    throw CLI::ValidationError(option, "expected .safetensors, .npy, .y4m or - (a pipe of .y4m), found " + path);
  refuse_terminal(option, path);
}

void check_model_path(const std::string& path) {
  std::error_code unknown;
  if (!std::filesystem::exists(path, unknown))
    throw IoError(path, "a model folder or a checkpoint", std::make_error_code(std::errc::no_such_file_or_directory));
}

std::string engine_of(const ModelMixin& model) {
  return "engine " + std::string(model.engine()) + ", " + std::string(model.isa()) + ", " +
         std::string(name_of(model.compute_dtype()));
}

}  // namespace kineograph::cli

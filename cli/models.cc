#include "models.h"

#include <cstdlib>
#include <string>

#include "base/program_path.h"
#include "kineograph/error.h"

namespace kineograph::cli {
namespace {

std::filesystem::path models_folder() {
  if (const char* given = std::getenv("KINEOGRAPH_MODELS"); given != nullptr && *given != '\0') return given;
  std::error_code error;
  const std::filesystem::path program = program_path(error);
  if (error) throw IoError("the program's own path", "to find its models beside", error, "Set KINEOGRAPH_MODELS.");
  return (program.parent_path() / ".." / "share" / "kineograph" / "models").lexically_normal();
}

}  // namespace

std::filesystem::path shipped_model(std::string_view name) {
  std::filesystem::path folder = models_folder() / name;
  std::error_code unknown;
  if (!std::filesystem::exists(folder / "config.json", unknown))
    throw IoError(folder.string(), "the model \"" + std::string(name) + "\" that comes with kineograph", "none",
                  "Give --model, or set KINEOGRAPH_MODELS to the folder of the models.");
  return folder;
}

}  // namespace kineograph::cli

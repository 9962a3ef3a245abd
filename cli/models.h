// The models that come with the program.
#pragma once

#include <filesystem>
#include <string_view>

namespace kineograph::cli {

/// The folder of a shipped model: under KINEOGRAPH_MODELS where that is set, else under share/kineograph/models beside
/// the program's bin, in a build tree as in an installed one. Throws IoError, which names where it looked.
std::filesystem::path shipped_model(std::string_view name);

}  // namespace kineograph::cli

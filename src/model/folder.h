// The folder of one model.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "base/atomic_file.h"

namespace kineograph::model {

/// Writes `weights_name` and config.json into `directory`, which is made if need be: both or neither, so that no older
/// weights lie beside a newer configuration. `write_weights` fills the file of the weights. Throws IoError.
void save_folder(const std::filesystem::path& directory, const std::string& weights_name, const std::string& config,
                 const std::function<void(AtomicFile&)>& write_weights);

}  // namespace kineograph::model

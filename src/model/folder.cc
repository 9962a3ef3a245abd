#include "model/folder.h"

#include "kineograph/error.h"

namespace kineograph::model {

void save_folder(const std::filesystem::path& directory, const std::string& weights_name, const std::string& config,
                 const std::function<void(AtomicFile&)>& write_weights) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(directory, error);
  if (error) throw IoError(directory.string(), "a folder that can be made", error.message());
  try {
    AtomicFile weights(directory / weights_name), settings(directory / "config.json");
    write_weights(weights);
    settings.write(config);
    AtomicFile::commit_together({&weights, &settings});
  } catch (...) {
    if (made) std::filesystem::remove(directory, error);  // only if it is empty
    throw;
  }
}

}  // namespace kineograph::model

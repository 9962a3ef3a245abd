// The running program's own path.
#pragma once

#include <filesystem>
#include <system_error>

namespace kineograph {

/// The program's own file, links followed. Empty, with the reason in `error`, where the system does not tell.
std::filesystem::path program_path(std::error_code& error);

}  // namespace kineograph

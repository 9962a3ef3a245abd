#include "base/program_path.h"

#include "base/system.h"

#if defined(__APPLE__)
#include <mach-o/dyld.h>

#include <string>
#endif

namespace kineograph {

std::filesystem::path program_path(std::error_code& error) {
#if KINEOGRAPH_LINUX
  return std::filesystem::read_symlink("/proc/self/exe", error);
#elif defined(__APPLE__)
  std::string path(4096, '\0');
  std::uint32_t size = static_cast<std::uint32_t>(path.size());
  if (_NSGetExecutablePath(path.data(), &size) != 0) {
    error = std::make_error_code(std::errc::filename_too_long);
    return {};
  }
  return std::filesystem::canonical(path.c_str(), error);
#else
  error = std::make_error_code(std::errc::function_not_supported);
  return {};
#endif
}

}  // namespace kineograph

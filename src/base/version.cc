#include "kineograph/version.h"

#include "kineograph/model.h"

namespace kineograph {

std::string_view version() noexcept { return KINEOGRAPH_VERSION; }

}  // namespace kineograph

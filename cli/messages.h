// Sentences on stderr.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/printable.h"
#include "kineograph/config.h"

namespace kineograph::cli {

/// Says something on stderr, as printable_lines makes it.
void say(std::string_view message);
/// A handler that says each warning once.
WarningHandler warn_once();

/// "1 frame", "2 frames"; `noun` is the singular.
std::string counted(std::int64_t count, std::string_view noun);
/// With `decimals` digits behind the point.
std::string with_decimals(double value, int decimals);
/// "90 B", "3.4 MB", "1.8 GB": powers of 1000.
std::string size_text(std::uint64_t bytes);

}  // namespace kineograph::cli

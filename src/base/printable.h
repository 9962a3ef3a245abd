// Texts from strangers' files, fit to be read.
#pragma once

#include <string>
#include <string_view>

namespace kineograph {

/// `text` without what would move a terminal's cursor, turn the direction of reading, or fake a further line: control
/// characters of ASCII and of Unicode's C1 range, line and paragraph separators, direction marks and bytes that are no
/// UTF-8 become '?', line ends and tabs a space. Beyond `most` bytes it is cut off, and says so.
std::string printable(std::string_view text, std::size_t most = 2000);

/// The same line by line: line ends, which are the writer's own, stay.
std::string printable_lines(std::string_view text);

}  // namespace kineograph

// Texts in messages: of strangers as much as a person reads, and lists.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/printable.h"

namespace kineograph {

/// The beginning of a text, printable, and how long the whole is where it is longer than a name of a parameter is.
inline std::string shortened(std::string_view text) {
  constexpr std::size_t kMost = 200;
  if (text.size() <= kMost) return printable(text);
  return printable(text.substr(0, kMost)) + "... (" + std::to_string(text.size()) + " bytes)";
}

/// The first of `names` and how many more there are, each after `separator`.
inline std::string first_of(const std::vector<std::string>& names, std::string_view separator = "\n  ",
                            std::size_t most = 5) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) text += std::string(separator) + shortened(names[i]);
  if (names.size() > most)
    text += std::string(separator) + "and " + std::to_string(names.size() - most) + " more, " +
            std::to_string(names.size()) + " in all";
  return text;
}

/// All of them, with `separator` between.
inline std::string joined(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : std::string(separator)) + word;
  return text;
}

}  // namespace kineograph

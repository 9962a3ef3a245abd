#include "messages.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <set>

namespace kineograph::cli {

void say(std::string_view message) { std::cerr << "kineograph: " << printable_lines(message) << '\n'; }

WarningHandler warn_once() {
  return [said = std::make_shared<std::set<std::string, std::less<>>>()](std::string_view message) {
    if (said->emplace(message).second) say("warning: " + std::string(message));
  };
}

std::string counted(std::int64_t count, std::string_view noun) {
  return std::to_string(count) + " " + std::string(noun) + (count == 1 ? "" : "s");
}

std::string with_decimals(double value, int decimals) {
  char text[400];  // the largest double has 309 digits before the point
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string size_text(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 999.95 && unit + 1 < std::size(kUnits); ++unit) value /= 1000;
  return with_decimals(value, unit == 0 ? 0 : 1) + " " + kUnits[unit];
}

}  // namespace kineograph::cli

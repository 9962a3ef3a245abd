#include "messages.h"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <set>

namespace kineograph::cli {
namespace {

/// Control characters as '?': those below a space but `kept`, DEL, and the ones that UTF-8 spells C2 80 to C2 9F.
std::string without_controls(std::string_view text, char kept) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 = byte == 0xc2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xe0) == 0x80;
    i += c1 ? 1 : 0;
    out += c1 || byte == 0x7f || (byte < 0x20 && text[i] != kept) ? '?' : text[i];
  }
  return out;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string line(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return without_controls(line, ' ');
}

void say(std::string_view message) { std::cerr << "kineograph: " << without_controls(message, '\n') << '\n'; }

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

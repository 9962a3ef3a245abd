#include "kineograph/error.h"

#include "base/printable.h"

namespace kineograph {
namespace {

std::string compose(const std::string& where, const std::string& expected, const std::string& found,
                    const std::string& hint) {
  // Any part may have been in a stranger's file.
  std::string text = printable(where) + ": expected " + printable(expected) + ", found " + printable(found);
  if (!hint.empty()) text += ". " + printable(hint);
  return text;
}

/// The system's sentence as it stands within one.
std::string words_of(std::error_code reason) {
  if (!reason) return "an error of the operating system";
  if (reason == std::errc::no_such_file_or_directory) return "no such file or folder";
  std::string text = reason.message();
  if (!text.empty() && text[0] >= 'A' && text[0] <= 'Z') text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return text;
}

}  // namespace

Error::Error(std::string where, std::string expected, std::string found, std::string hint)
    : Error(compose(where, expected, found, hint), where, expected, found, hint) {}

Error::Error(const std::string& message, std::string where, std::string expected, std::string found, std::string hint)
    : std::runtime_error(message),
      where_(std::move(where)),
      expected_(std::move(expected)),
      found_(std::move(found)),
      hint_(std::move(hint)) {}

IoError::IoError(const std::string& where, std::string expected, std::error_code reason, std::string hint)
    : Error(printable(where) + ": " + words_of(reason) + (hint.empty() ? "" : ". " + printable(hint)), where,
            std::move(expected), words_of(reason), hint) {}

}  // namespace kineograph

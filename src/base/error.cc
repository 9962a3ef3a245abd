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

}  // namespace

Error::Error(std::string where, std::string expected, std::string found, std::string hint)
    : std::runtime_error(compose(where, expected, found, hint)),
      where_(std::move(where)),
      expected_(std::move(expected)),
      found_(std::move(found)),
      hint_(std::move(hint)) {}

}  // namespace kineograph

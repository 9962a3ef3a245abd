// The names of ContextWeighting.
#include "kineograph/context.h"

#include <string>

#include "kineograph/error.h"

namespace kineograph {
namespace {

constexpr ContextWeighting kAll[] = {ContextWeighting::flat, ContextWeighting::pyramid,
                                     ContextWeighting::delayed_reverse_sawtooth};

}  // namespace

std::string_view name_of(ContextWeighting value) noexcept {
  switch (value) {
    case ContextWeighting::flat:
      return "flat";
    case ContextWeighting::pyramid:
      return "pyramid";
    case ContextWeighting::delayed_reverse_sawtooth:
      return "delayed_reverse_sawtooth";
  }
  return "none";
}

ContextWeighting context_weighting(std::string_view name, std::string_view where) {
  std::string expected;
  for (const ContextWeighting value : kAll) {
    if (name_of(value) == name) return value;
    expected += (expected.empty() ? "" : ", ") + std::string(name_of(value));
  }
  throw ArgumentError(std::string(where), "one of " + expected, std::string(name));
}

}  // namespace kineograph

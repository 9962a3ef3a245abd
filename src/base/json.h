// JSON from strangers: configurations and indices, of which none is deep.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "base/text.h"

namespace kineograph::checkpoint {

/// A JSON object; `Json` is one of nlohmann's types. Throws `Failure`, naming `where`, for what is none, for repeated
/// keys and nesting, which a parsed value no longer shows (copying or printing deep values would exhaust the stack),
/// and for texts beyond 64 MB or of more than one value for every four bytes: a value takes some 100 bytes of memory,
/// so that the whole takes at most 32 times the text and a megabyte.
template <class Json, class Failure>
Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 16;
  constexpr std::size_t kMaxBytes = 64 << 20, kValuesAtLeast = 4096, kBytesPerValue = 4;
  if (text.size() > kMaxBytes)
    throw Failure(where, "at most " + std::to_string(kMaxBytes) + " bytes of JSON", std::to_string(text.size()));
  std::set<std::string> seen;
  std::size_t values = 0;
  const auto check = [&](int depth, typename Json::parse_event_t event, Json& value) {
    using Event = typename Json::parse_event_t;
    const bool counts = event == Event::value || event == Event::object_start || event == Event::array_start;
    if (counts && ++values > kValuesAtLeast + text.size() / kBytesPerValue)
      throw Failure(where, "JSON of fewer values",
                    "more than one for every " + std::to_string(kBytesPerValue) + " bytes");
    if (depth > kMaxDepth) throw Failure(where, "nesting of at most " + std::to_string(kMaxDepth) + " levels", "more");
    if (depth == 1 && event == Json::parse_event_t::key && !seen.insert(value.template get<std::string>()).second)
      throw Failure(where + ": " + shortened(value.template get<std::string>()), "every key once", "it twice");
    return true;
  };
  Json json;
  try {
    json = Json::parse(text, check);
  } catch (const typename Json::parse_error& error) {
    throw Failure(where, "JSON", "an error at byte " + std::to_string(error.byte));
  } catch (const typename Json::out_of_range&) {
    throw Failure(where, "JSON with numbers that a double can hold", "one beyond");
  }
  if (!json.is_object()) throw Failure(where, "a JSON object", json.type_name());
  return json;
}

}  // namespace kineograph::checkpoint

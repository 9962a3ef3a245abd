// JSON from strangers: configurations and indices, of which none is deep.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

namespace kineograph::checkpoint {

/// A JSON object; `Json` is one of nlohmann's types. Throws `Failure`, naming `where`, for what is none, and for
/// repeated keys and nesting, which a parsed value no longer shows: copying or printing deep values would exhaust the
/// stack.
template <class Json, class Failure>
Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 16;
  std::set<std::string> seen;
  const auto check = [&](int depth, typename Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) throw Failure(where, "nesting of at most " + std::to_string(kMaxDepth) + " levels", "more");
    if (depth == 1 && event == Json::parse_event_t::key && !seen.insert(value.template get<std::string>()).second)
      throw Failure(where + ": " + value.template get<std::string>(), "every key once", "it twice");
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

// JSON: configurations and indices of strangers, and what is written.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace kineograph {

/// A JSON value; objects keep their members' order. Its destructor takes no memory, unlike that of nlohmann's values,
/// which ends the process where there is none.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  /// Null.
  Json() = default;
  Json(std::nullptr_t) {}
  template <std::same_as<bool> T>
  Json(T value) : value_(value) {}
  /// Integers below 2^63 are of one type, so that equal ones compare equal.
  template <std::integral T>
  requires(!std::same_as<T, bool>) Json(T value) {
    if (std::in_range<std::int64_t>(value))
      value_ = static_cast<std::int64_t>(value);
    else
      value_ = static_cast<std::uint64_t>(value);
  }
  Json(double value) : value_(value) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}
  Json(const Json& other);
  Json& operator=(const Json& other) { return *this = Json(other); }
  Json(Json&&) noexcept = default;
  Json& operator=(Json&&) noexcept = default;
  ~Json() = default;

  /// Told of what a text cannot be: where, expected, found. Throws.
  using Refuse = void (*)(const std::string& where, const std::string& expected, const std::string& found);

  /// Any one value. Refuses, naming `where`, what is no JSON, repeated keys, nesting beyond 16 levels, which would
  /// exhaust the stack where values are copied or printed, and texts beyond 64 MB or of more than one value for every
  /// four bytes: the whole takes at most 32 times the text's memory and a megabyte.
  static Json parse(std::string_view text, const std::string& where, Refuse refuse);

  bool is_null() const noexcept { return std::holds_alternative<std::monostate>(value_); }
  /// Null where it is another kind of value.
  const Array* array() const noexcept { return std::get_if<Array>(&value_); }
  const Object* object() const noexcept { return std::get_if<Object>(&value_); }
  /// The object's member; null where there is none, or no object.
  const Json* find(std::string_view key) const noexcept;

  /// The object's member, null where it is new; null becomes an object.
  Json& operator[](std::string_view key);

  /// The value as a bool, an integer within T's range, a number, a text, or a list of those; nullopt for another kind.
  template <class T>
  std::optional<T> as() const;

  /// As text, in the order of the members: on one line, or with a line an element and `indent` spaces a level.
  /// Throws ArgumentError for texts that are no UTF-8.
  std::string dump(int indent = -1) const;

  /// Numbers are equal by value, as 1 and 1.0 are.
  bool operator==(const Json& other) const;

 private:
  struct Builder;
  void write(std::string& out, int indent, int level) const;

  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object> value_;
};

template <class T>
std::optional<T> Json::as() const {
  if constexpr (std::same_as<T, bool> || std::same_as<T, std::string>) {
    if (const T* value = std::get_if<T>(&value_)) return *value;
  } else if constexpr (std::integral<T>) {
    if (const auto* value = std::get_if<std::int64_t>(&value_); value && std::in_range<T>(*value))
      return static_cast<T>(*value);
    if (const auto* value = std::get_if<std::uint64_t>(&value_); value && std::in_range<T>(*value))
      return static_cast<T>(*value);
  } else if constexpr (std::floating_point<T>) {
    if (const auto* value = std::get_if<double>(&value_)) return static_cast<T>(*value);
    if (const auto* value = std::get_if<std::int64_t>(&value_)) return static_cast<T>(*value);
    if (const auto* value = std::get_if<std::uint64_t>(&value_)) return static_cast<T>(*value);
  } else if (const Array* elements = array()) {
    T list;
    for (const Json& element : *elements) {
      auto value = element.as<typename T::value_type>();
      if (!value) return std::nullopt;
      list.push_back(*std::move(value));
    }
    return list;
  }
  return std::nullopt;
}

/// Json::Refuse that throws a `Failure`.
template <class Failure>
void refuse_as(const std::string& where, const std::string& expected, const std::string& found) {
  throw Failure(where, expected, found);
}

/// A JSON object, read by Json::parse. Throws `Failure`, naming `where`, for anything else.
template <class Failure>
Json parse_json(std::string_view text, const std::string& where) {
  Json json = Json::parse(text, where, refuse_as<Failure>);
  if (!json.object()) throw Failure(where, "a JSON object", json.array() ? "a list" : "a single value");
  return json;
}

/// The member `name` of an object as a T. Throws `Failure`, naming `where`, for none or another kind of value.
template <class T, class Failure>
T member(const Json& object, const std::string& name, const std::string& where) {
  const Json* const found = object.find(name);
  if (found)
    if (auto value = found->as<T>()) return *std::move(value);
  constexpr const char* kKind = std::same_as<T, bool>          ? "true or false"
                                : std::same_as<T, std::string> ? "a text"
                                : std::integral<T>             ? "an integer"
                                : std::floating_point<T>       ? "a number"
                                                               : "a list";
  throw Failure(where + ": " + name, kKind, found ? found->dump() : "none");
}

}  // namespace kineograph

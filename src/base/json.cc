#include "base/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

constexpr std::size_t kMaxDepth = 16, kMaxBytes = 64 << 20, kValuesAtLeast = 4096, kBytesPerValue = 4;

/// A single value as nlohmann's library writes it: numbers in the fewest digits, texts escaped.
template <class T>
std::string written(const T& value) {
  try {
    return nlohmann::json(value).dump();
  } catch (const nlohmann::json::type_error&) {
    if constexpr (std::same_as<T, std::string>)
      throw ArgumentError("a text of JSON, \"" + shortened(value) + "\"", "UTF-8", "other bytes");
    throw;
  }
}

}  // namespace

/// Makes a value of what nlohmann's parser meets.
struct Json::Builder : nlohmann::json_sax<nlohmann::json> {
  Builder(std::string_view text, const std::string& name, Refuse told)
      : where(name), refuse(told), most(kValuesAtLeast + text.size() / kBytesPerValue) {}

  const std::string& where;
  Refuse refuse;
  std::size_t most, values = 0;
  Json root;
  std::vector<Json> open;          // arrays and objects that are not closed yet, the innermost last
  std::vector<std::string> names;  // of the members that open objects wait for

  void count() {
    if (++values > most)
      refuse(where, "JSON of fewer values", "more than one for every " + std::to_string(kBytesPerValue) + " bytes");
  }
  bool put(Json value) {
    count();
    add(std::move(value));
    return true;
  }
  void add(Json value) {
    if (open.empty())
      root = std::move(value);
    else if (auto* array = std::get_if<Array>(&open.back().value_))
      array->push_back(std::move(value));
    else
      std::get<Object>(open.back().value_).emplace_back(std::move(names.back()), std::move(value)), names.pop_back();
  }
  bool begin(Json container) {
    count();
    if (open.size() >= kMaxDepth) refuse(where, "nesting of at most " + std::to_string(kMaxDepth) + " levels", "more");
    open.push_back(std::move(container));
    return true;
  }
  bool end() {
    Json closed = std::move(open.back());
    open.pop_back();
    add(std::move(closed));
    return true;
  }
  void check_names(const Object& object) const {
    std::vector<std::string_view> sorted;
    sorted.reserve(object.size());
    for (const auto& [name, value] : object) sorted.push_back(name);
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) refuse(where + ": " + shortened(*twice), "every key once", "it twice");
  }

  bool null() override { return put({}); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // of other formats than text
  bool start_array(std::size_t) override { return begin(Array()); }
  bool end_array() override { return end(); }
  bool start_object(std::size_t) override { return begin(Object()); }
  bool end_object() override {
    check_names(*open.back().object());
    return end();
  }
  bool key(string_t& name) override {
    names.push_back(std::move(name));
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    constexpr int kOutOfRange = 406;
    if (error.id == kOutOfRange) refuse(where, "JSON with numbers that a double can hold", "one beyond");
    refuse(where, "JSON", "an error at byte " + std::to_string(position));
    return false;
  }
};

// Not the variant's copy: libstdc++ 12's destroys what it has not made when the memory of a text or list cannot be had.
Json::Json(const Json& other) {
  std::visit(
      [&](const auto& value) {
        auto copy = value;
        value_ = std::move(copy);
      },
      other.value_);
}

Json Json::parse(std::string_view text, const std::string& where, Refuse refuse) {
  if (text.size() > kMaxBytes)
    refuse(where, "at most " + std::to_string(kMaxBytes) + " bytes of JSON", std::to_string(text.size()));
  Builder builder(text, where, refuse);
  nlohmann::json::sax_parse(text, &builder);
  return std::move(builder.root);
}

const Json* Json::find(std::string_view key) const noexcept {
  const Object* const members = object();
  if (!members) return nullptr;
  const auto found = std::find_if(members->begin(), members->end(), [&](const auto& m) { return m.first == key; });
  return found == members->end() ? nullptr : &found->second;
}

Json& Json::operator[](std::string_view key) {
  if (const Json* const found = find(key)) return const_cast<Json&>(*found);
  if (is_null()) value_ = Object();
  return std::get<Object>(value_).emplace_back(key, Json()).second;
}

std::string Json::dump(int indent) const {
  std::string out;
  write(out, indent, 0);
  return out;
}

void Json::write(std::string& out, int indent, int level) const {
  const auto line = [&](int at) {
    if (indent >= 0) out += '\n' + std::string(static_cast<std::size_t>(at * indent), ' ');
  };
  const auto list = [&](char begin, char end, const auto& elements, const auto& one) {
    out += begin;
    bool first = true;
    for (const auto& element : elements) {
      if (!std::exchange(first, false)) out += ',';
      line(level + 1);
      one(element);
    }
    if (!elements.empty()) line(level);
    out += end;
  };
  std::visit(
      [&]<class T>(const T& value) {
        if constexpr (std::same_as<T, std::monostate>)
          out += "null";
        else if constexpr (std::same_as<T, Array>)
          list('[', ']', value, [&](const Json& element) { element.write(out, indent, level + 1); });
        else if constexpr (std::same_as<T, Object>)
          list('{', '}', value, [&](const auto& member) {
            out += written(member.first) + (indent >= 0 ? ": " : ":");
            member.second.write(out, indent, level + 1);
          });
        else
          out += written(value);
      },
      value_);
}

bool Json::operator==(const Json& other) const {
  if (value_.index() == other.value_.index()) return value_ == other.value_;
  const auto a = as<double>(), b = other.as<double>();
  return a && b && *a == *b;
}

}  // namespace kineograph

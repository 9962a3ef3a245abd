// Values of config.json: how each kind is read and written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "kineograph/config.h"
#include "kineograph/error.h"

namespace kineograph::config {

template <class T>
struct Named {
  T value;
  std::string_view name;
};

inline constexpr Named<Activation> kActivations[] = {{Activation::geglu, "geglu"},
                                                     {Activation::gelu, "gelu"},
                                                     {Activation::gelu_approximate, "gelu-approximate"},
                                                     {Activation::geglu_approximate, "geglu-approximate"},
                                                     {Activation::swiglu, "swiglu"},
                                                     {Activation::linear_silu, "linear-silu"}};
inline constexpr Named<NormType> kNormTypes[] = {
    {NormType::layer_norm, "layer_norm"}, {NormType::ada_norm, "ada_norm"}, {NormType::ada_norm_zero, "ada_norm_zero"}};
inline constexpr Named<GroupNormScope> kScopes[] = {{GroupNormScope::clip, "clip"}, {GroupNormScope::frame, "frame"}};
inline constexpr Named<PositionalEmbeddings> kPositions[] = {{PositionalEmbeddings::sinusoidal, "sinusoidal"}};

template <class T, std::size_t N>
std::string_view find_name(const Named<T> (&names)[N], T value) {
  for (const auto& entry : names)
    if (entry.value == value) return entry.name;
  return "none";
}

[[noreturn]] inline void refuse(const std::string& where, std::string_view key, const std::string& expected,
                                const std::string& found, const std::string& hint = {}) {
  throw ConfigError(where + ": " + std::string(key), expected, found, hint);
}

template <class T>
void read_as(const Json& json, const std::string& where, std::string_view key, const char* expected, T& out) {
  const auto value = json.as<T>();
  if (!value) refuse(where, key, expected, json.dump());
  out = *value;
}
inline void read(const Json& json, const std::string& where, std::string_view key, std::int64_t& out) {
  read_as(json, where, key, "an integer", out);
}
inline void read(const Json& json, const std::string& where, std::string_view key, double& out) {
  read_as(json, where, key, "a number", out);
}
inline void read(const Json& json, const std::string& where, std::string_view key, bool& out) {
  read_as(json, where, key, "true or false", out);
}
template <class T>
void read(const Json& json, const std::string& where, std::string_view key, std::optional<T>& out) {
  if (json.is_null()) return out.reset();
  T value{};
  read(json, where, key, value);
  out = value;
}
template <class T, std::size_t N>
void read_name(const Json& json, const std::string& where, std::string_view key, const Named<T> (&names)[N], T& out) {
  const auto given = json.as<std::string>();
  std::string known;
  for (const auto& entry : names) {
    if (given == entry.name) {
      out = entry.value;
      return;
    }
    known += (known.empty() ? "one of " : ", ") + std::string(entry.name);
  }
  refuse(where, key, known, json.dump());
}
inline void read(const Json& json, const std::string& where, std::string_view key, Activation& out) {
  read_name(json, where, key, kActivations, out);
}
inline void read(const Json& json, const std::string& where, std::string_view key, NormType& out) {
  read_name(json, where, key, kNormTypes, out);
}
inline void read(const Json& json, const std::string& where, std::string_view key, GroupNormScope& out) {
  read_name(json, where, key, kScopes, out);
}
inline void read(const Json& json, const std::string& where, std::string_view key, PositionalEmbeddings& out) {
  if (json.is_null())
    out = PositionalEmbeddings::none;
  else
    read_name(json, where, key, kPositions, out);
}

inline Json write(std::int64_t value) { return value; }
inline Json write(double value) { return value; }
inline Json write(bool value) { return value; }
template <class T>
Json write(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}
inline Json write(Activation value) { return name_of(value); }
inline Json write(NormType value) { return name_of(value); }
inline Json write(GroupNormScope value) { return name_of(value); }
inline Json write(PositionalEmbeddings value) {
  return value == PositionalEmbeddings::none ? Json(nullptr) : Json(name_of(value));
}

}  // namespace kineograph::config

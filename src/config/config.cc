// config.json <-> TransformerTemporalConfig.
#include "kineograph/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/mapped_file.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

using Json = nlohmann::ordered_json;
using Config = TransformerTemporalConfig;

template <class T>
struct Named {
  T value;
  std::string_view name;
};

constexpr Named<Activation> kActivations[] = {{Activation::geglu, "geglu"},
                                              {Activation::gelu, "gelu"},
                                              {Activation::gelu_approximate, "gelu-approximate"},
                                              {Activation::geglu_approximate, "geglu-approximate"},
                                              {Activation::swiglu, "swiglu"},
                                              {Activation::linear_silu, "linear-silu"}};
constexpr Named<NormType> kNormTypes[] = {
    {NormType::layer_norm, "layer_norm"}, {NormType::ada_norm, "ada_norm"}, {NormType::ada_norm_zero, "ada_norm_zero"}};
constexpr Named<GroupNormScope> kScopes[] = {{GroupNormScope::clip, "clip"}, {GroupNormScope::frame, "frame"}};
constexpr Named<PositionalEmbeddings> kPositions[] = {{PositionalEmbeddings::sinusoidal, "sinusoidal"}};

template <class T, std::size_t N>
std::string_view find_name(const Named<T> (&names)[N], T value) {
  for (const auto& entry : names)
    if (entry.value == value) return entry.name;
  return "none";
}

[[noreturn]] void refuse(const std::string& where, std::string_view key, const std::string& expected,
                         const std::string& found, const std::string& hint = {}) {
  throw ConfigError(where + ": " + std::string(key), expected, found, hint);
}

void read(const Json& json, const std::string& where, std::string_view key, std::int64_t& out) {
  if (!json.is_number_integer() || (json.is_number_unsigned() && json.get<std::uint64_t>() > INT64_MAX))
    refuse(where, key, "an integer", json.dump());
  out = json.get<std::int64_t>();
}
void read(const Json& json, const std::string& where, std::string_view key, double& out) {
  if (!json.is_number()) refuse(where, key, "a number", json.dump());
  out = json.get<double>();
}
void read(const Json& json, const std::string& where, std::string_view key, bool& out) {
  if (!json.is_boolean()) refuse(where, key, "true or false", json.dump());
  out = json.get<bool>();
}
void read(const Json& json, const std::string& where, std::string_view key, std::optional<std::int64_t>& out) {
  if (json.is_null()) return out.reset();
  std::int64_t value = 0;
  read(json, where, key, value);
  out = value;
}
template <class T, std::size_t N>
void read_name(const Json& json, const std::string& where, std::string_view key, const Named<T> (&names)[N], T& out) {
  std::string known;
  for (const auto& entry : names) {
    if (json.is_string() && json.get<std::string>() == entry.name) {
      out = entry.value;
      return;
    }
    known += (known.empty() ? "one of " : ", ") + std::string(entry.name);
  }
  refuse(where, key, known, json.dump());
}
void read(const Json& json, const std::string& where, std::string_view key, Activation& out) {
  read_name(json, where, key, kActivations, out);
}
void read(const Json& json, const std::string& where, std::string_view key, NormType& out) {
  read_name(json, where, key, kNormTypes, out);
}
void read(const Json& json, const std::string& where, std::string_view key, GroupNormScope& out) {
  read_name(json, where, key, kScopes, out);
}
void read(const Json& json, const std::string& where, std::string_view key, PositionalEmbeddings& out) {
  if (json.is_null())
    out = PositionalEmbeddings::none;
  else
    read_name(json, where, key, kPositions, out);
}

Json write(std::int64_t value) { return value; }
Json write(double value) { return value; }
Json write(bool value) { return value; }
Json write(const std::optional<std::int64_t>& value) { return value ? Json(*value) : Json(nullptr); }
Json write(Activation value) { return name_of(value); }
Json write(NormType value) { return name_of(value); }
Json write(GroupNormScope value) { return name_of(value); }
Json write(PositionalEmbeddings value) {
  return value == PositionalEmbeddings::none ? Json(nullptr) : Json(name_of(value));
}

/// One key: how it is read and written, and whether diffusers' class knows it (those are always written).
struct Key {
  std::string_view name;
  bool diffusers;
  void (*read)(const Json&, const std::string& where, std::string_view key, Config&);
  Json (*write)(const Config&);
};

template <auto kField>
constexpr Key key(std::string_view name, bool diffusers = true) {
  return {name, diffusers,
          [](const Json& json, const std::string& where, std::string_view key, Config& config) {
            read(json, where, key, config.*kField);
          },
          [](const Config& config) { return write(config.*kField); }};
}

constexpr Key kKeys[] = {
    key<&Config::num_attention_heads>("num_attention_heads"),
    key<&Config::attention_head_dim>("attention_head_dim"),
    key<&Config::in_channels>("in_channels"),
    key<&Config::out_channels>("out_channels"),
    key<&Config::num_layers>("num_layers"),
    key<&Config::dropout>("dropout"),
    key<&Config::norm_num_groups>("norm_num_groups"),
    key<&Config::cross_attention_dim>("cross_attention_dim"),
    key<&Config::attention_bias>("attention_bias"),
    key<&Config::sample_size>("sample_size"),
    key<&Config::activation_fn>("activation_fn"),
    key<&Config::norm_elementwise_affine>("norm_elementwise_affine"),
    key<&Config::double_self_attention>("double_self_attention"),
    key<&Config::positional_embeddings>("positional_embeddings"),
    key<&Config::num_positional_embeddings>("num_positional_embeddings"),
    key<&Config::norm_type>("norm_type", false),
    key<&Config::num_embeds_ada_norm>("num_embeds_ada_norm", false),
    key<&Config::num_vector_embeds>("num_vector_embeds", false),
    key<&Config::group_norm_scope>("group_norm_scope", false),
};

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j)
      diagonal = std::exchange(row[j + 1], std::min({row[j] + 1, row[j + 1] + 1, diagonal + (a[i] == b[j] ? 0u : 1u)}));
  }
  return row.back();
}

std::string_view nearest_key(std::string_view name) {
  return std::min_element(
             std::begin(kKeys), std::end(kKeys),
             [&](const Key& a, const Key& b) { return edit_distance(name, a.name) < edit_distance(name, b.name); })
      ->name;
}

void require(bool condition, std::string_view key, const std::string& expected, const std::string& found,
             const std::string& hint = {}) {
  if (!condition) throw ConfigError("config: " + std::string(key), expected, found, hint);
}

void require_positive(std::string_view key, std::int64_t value, std::int64_t most) {
  require(value > 0 && value <= most, key, "1 to " + std::to_string(most), std::to_string(value));
}

// Far beyond every published model, and far below what could overflow a product of four of them.
constexpr std::int64_t kMaxWidth = 1 << 20;

}  // namespace

std::string_view name_of(Activation value) noexcept { return find_name(kActivations, value); }
std::string_view name_of(NormType value) noexcept { return find_name(kNormTypes, value); }
std::string_view name_of(GroupNormScope value) noexcept { return find_name(kScopes, value); }
std::string_view name_of(PositionalEmbeddings value) noexcept { return find_name(kPositions, value); }

Config Config::from_json(std::string_view text, std::string_view where, UnknownKeys unknown,
                         const WarningHandler& on_warning) {
  const std::string source(where);
  const Json json = checkpoint::parse_json<Json, ConfigError>(text, source);
  Config config;
  for (const auto& [name, value] : json.items()) {
    if (name.starts_with('_')) {
      config.private_keys.emplace_back(name, value.dump());
      continue;
    }
    const auto* found =
        std::find_if(std::begin(kKeys), std::end(kKeys), [&key = name](const Key& k) { return k.name == key; });
    if (found != std::end(kKeys)) {
      found->read(value, source, name, config);
    } else if (unknown == UnknownKeys::refuse) {
      refuse(source, name, "a key of TransformerTemporalModel", "an unknown one",
             "Did you mean " + std::string(nearest_key(name)) + "?");
    } else if (on_warning) {
      on_warning(source + ": unknown key " + name + " is ignored. Did you mean " + std::string(nearest_key(name)) +
                 "?");
    }
  }
  return config;
}

Config Config::from_file(const std::filesystem::path& path, UnknownKeys unknown, const WarningHandler& on_warning) {
  return from_json(checkpoint::read_text(path), path.string(), unknown, on_warning);
}

std::string Config::to_json() const {
  const Config defaults;
  Json json = Json::object();
  json["_class_name"] = "TransformerTemporalModel";
  for (const auto& [name, value] : private_keys) json[name] = Json::parse(value);
  for (const Key& k : kKeys)
    if (k.diffusers || k.write(*this) != k.write(defaults)) json[std::string(k.name)] = k.write(*this);
  return json.dump(2) + "\n";
}

void Config::validate() const {
  require_positive("num_attention_heads", num_attention_heads, kMaxWidth);
  require_positive("attention_head_dim", attention_head_dim, kMaxWidth);
  require(inner_dim() <= kMaxWidth, "num_attention_heads * attention_head_dim", "at most " + std::to_string(kMaxWidth),
          std::to_string(inner_dim()));
  require(num_layers >= 0 && num_layers <= 1024, "num_layers", "0 to 1024", std::to_string(num_layers));
  require(dropout >= 0.0 && dropout <= 1.0, "dropout", "0 to 1", std::to_string(dropout));
  if (cross_attention_dim) require_positive("cross_attention_dim", *cross_attention_dim, kMaxWidth);
  if (sample_size) require_positive("sample_size", *sample_size, 1 << 15);
  if (num_positional_embeddings) require_positive("num_positional_embeddings", *num_positional_embeddings, kMaxWidth);
  if (positional_embeddings != PositionalEmbeddings::none) {
    require(num_positional_embeddings.has_value(), "num_positional_embeddings",
            "a number of positions, as positional_embeddings is set", "none");
    require(inner_dim() % 2 == 0, "num_attention_heads * attention_head_dim",
            "an even width for sinusoidal positional_embeddings", std::to_string(inner_dim()));
  }
  if (norm_type != NormType::layer_norm) {
    require(num_embeds_ada_norm.has_value(), "num_embeds_ada_norm",
            "a number, as norm_type is " + std::string(name_of(norm_type)), "none");
    require_positive("num_embeds_ada_norm", *num_embeds_ada_norm, kMaxWidth);
  }
  if (is_discrete()) {
    require(*num_vector_embeds >= 2 && *num_vector_embeds <= kMaxWidth, "num_vector_embeds",
            "2 to " + std::to_string(kMaxWidth), std::to_string(*num_vector_embeds));
    require(sample_size.has_value(), "sample_size", "the side of the latent image, as num_vector_embeds is set",
            "none");
    require(!in_channels.has_value(), "in_channels", "none, as num_vector_embeds makes the input discrete",
            std::to_string(in_channels.value_or(0)));
    return;
  }
  require(in_channels.has_value(), "in_channels", "the channels of hidden_states", "none");
  require_positive("in_channels", *in_channels, kMaxWidth);
  require_positive("norm_num_groups", norm_num_groups, kMaxWidth);
  require(*in_channels % norm_num_groups == 0, "norm_num_groups",
          "a divisor of in_channels " + std::to_string(*in_channels), std::to_string(norm_num_groups));
}

}  // namespace kineograph

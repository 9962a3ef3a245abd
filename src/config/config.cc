// config.json <-> the configurations of the three models.
#include "kineograph/config.h"

#include <algorithm>
#include <functional>
#include <map>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/nearest.h"
#include "config/keys.h"
#include "config/values.h"
#include "kineograph/error.h"

namespace kineograph {
namespace config {
namespace {

/// One key: how it is read and written.
template <class Config>
struct Key {
  std::string_view name;
  std::function<void(const Json&, const std::string& where, Config&)> read;
  std::function<Json(const Config&)> write;
};

template <class Config, class T>
Key<Config> key(std::string_view name, T Config::*field) {
  return {name,
          [=](const Json& json, const std::string& where, Config& config) {
            config::read(json, where, name, config.*field);
          },
          [=](const Config& config) { return config::write(config.*field); }};
}

/// A key that no configuration keeps: only `only` is known to mean what the model does.
template <class Config>
Key<Config> refused_key(std::string_view name, Json only, std::string_view meaning) {
  return {name,
          [=](const Json& json, const std::string& where, Config&) {
            if (!(json == only))
              refuse(where, name, only.dump() + ", as " + std::string(meaning), json.dump(),
                     "Such a model is none of a UNet's.");
          },
          [=](const Config&) { return only; }};
}

/// Every key of what the models share.
const std::vector<Key<TransformerConfig>>& shared_keys() {
  using C = TransformerConfig;
  static const std::vector<Key<C>> all = {
      key("num_attention_heads", &C::num_attention_heads),
      key("attention_head_dim", &C::attention_head_dim),
      key("in_channels", &C::in_channels),
      key("out_channels", &C::out_channels),
      key("num_layers", &C::num_layers),
      key("dropout", &C::dropout),
      key("norm_num_groups", &C::norm_num_groups),
      key("cross_attention_dim", &C::cross_attention_dim),
      key("attention_bias", &C::attention_bias),
      key("sample_size", &C::sample_size),
      key("activation_fn", &C::activation_fn),
      key("norm_elementwise_affine", &C::norm_elementwise_affine),
      key("double_self_attention", &C::double_self_attention),
      key("only_cross_attention", &C::only_cross_attention),
      key("positional_embeddings", &C::positional_embeddings),
      key("num_positional_embeddings", &C::num_positional_embeddings),
      key("norm_type", &C::norm_type),
      key("num_embeds_ada_norm", &C::num_embeds_ada_norm),
      key("norm_eps", &C::norm_eps),
      key("num_vector_embeds", &C::num_vector_embeds),
  };
  return all;
}

/// Keys of a model's config.json: diffusers' keys in the order of its class' arguments, always written; then ours,
/// written where they differ from the default. `own` are those that the models do not share.
template <class Config>
struct Signature;

template <>
struct Signature<TransformerTemporalConfig> {
  using C = TransformerTemporalConfig;
  static constexpr std::string_view kClass = "TransformerTemporalModel";
  static inline const std::vector<std::string_view> diffusers = {"num_attention_heads",
                                                                 "attention_head_dim",
                                                                 "in_channels",
                                                                 "out_channels",
                                                                 "num_layers",
                                                                 "dropout",
                                                                 "norm_num_groups",
                                                                 "cross_attention_dim",
                                                                 "attention_bias",
                                                                 "sample_size",
                                                                 "activation_fn",
                                                                 "norm_elementwise_affine",
                                                                 "double_self_attention",
                                                                 "positional_embeddings",
                                                                 "num_positional_embeddings"};
  static inline const std::vector<std::string_view> ours = {"norm_type", "num_embeds_ada_norm", "num_vector_embeds",
                                                            "group_norm_scope"};
  static std::vector<Key<C>> own() { return {key("group_norm_scope", &C::group_norm_scope)}; }
};

template <>
struct Signature<Transformer2DConfig> {
  using C = Transformer2DConfig;
  static constexpr std::string_view kClass = "Transformer2DModel";
  static inline const std::vector<std::string_view> diffusers = {"num_attention_heads",
                                                                 "attention_head_dim",
                                                                 "in_channels",
                                                                 "out_channels",
                                                                 "num_layers",
                                                                 "dropout",
                                                                 "norm_num_groups",
                                                                 "cross_attention_dim",
                                                                 "attention_bias",
                                                                 "sample_size",
                                                                 "num_vector_embeds",
                                                                 "patch_size",
                                                                 "activation_fn",
                                                                 "num_embeds_ada_norm",
                                                                 "use_linear_projection",
                                                                 "only_cross_attention",
                                                                 "double_self_attention",
                                                                 "upcast_attention",
                                                                 "norm_type",
                                                                 "norm_elementwise_affine",
                                                                 "norm_eps",
                                                                 "attention_type",
                                                                 "caption_channels",
                                                                 "interpolation_scale",
                                                                 "use_additional_conditions"};
  static inline const std::vector<std::string_view> ours = {"num_ip_adapters"};
  static std::vector<Key<C>> own() {
    return {key("use_linear_projection", &C::use_linear_projection),
            key("upcast_attention", &C::upcast_attention),
            key("num_ip_adapters", &C::num_ip_adapters),
            key("caption_channels", &C::caption_channels),
            key("interpolation_scale", &C::interpolation_scale),
            key("use_additional_conditions", &C::use_additional_conditions),
            refused_key<C>("num_vector_embeds", nullptr, "the input is continuous"),
            refused_key<C>("patch_size", nullptr, "the input is not cut into patches"),
            refused_key<C>("attention_type", "default", "the blocks have no GLIGEN layers")};
  }
};

template <>
struct Signature<TransformerSpatioTemporalConfig> {
  using C = TransformerSpatioTemporalConfig;
  static constexpr std::string_view kClass = "TransformerSpatioTemporalModel";
  static inline const std::vector<std::string_view> diffusers = {
      "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers", "cross_attention_dim"};
  static inline const std::vector<std::string_view> ours = {};
  static std::vector<Key<C>> own() { return {}; }
};

/// A model's keys, in the order of its signature.
template <class Config>
const std::vector<Key<Config>>& keys() {
  static const std::vector<Key<Config>> all = [] {
    std::vector<Key<Config>> list;
    const auto named = [&](std::string_view name) {
      for (Key<Config>& own : Signature<Config>::own())
        if (own.name == name) return list.push_back(std::move(own));
      for (const Key<TransformerConfig>& shared : shared_keys())
        if (shared.name == name) list.push_back({shared.name, shared.read, shared.write});
    };
    for (const std::string_view name : Signature<Config>::diffusers) named(name);
    for (const std::string_view name : Signature<Config>::ours) named(name);
    return list;
  }();
  return all;
}

template <class Keys>
auto find_key(const Keys& keys, std::string_view name) {
  return std::find_if(keys.begin(), keys.end(), [&](const auto& key) { return key.name == name; });
}

/// "Did you mean num_layers?", where a key is near; else nothing.
template <class Config>
std::string suggestion(std::string_view name) {
  std::vector<std::string_view> known;
  for (const auto& key : keys<Config>()) known.push_back(key.name);
  const std::string_view meant = nearest(name, known);
  return meant.empty() ? "" : "Did you mean " + std::string(meant) + "?";
}

template <class Config>
Config from_json(std::string_view text, std::string_view where, UnknownKeys unknown, const WarningHandler& on_warning) {
  const std::string source(where);
  const Json json = parse_json<ConfigError>(text, source);
  Config config;
  for (const auto& [name, value] : *json.object()) {
    if (name.starts_with('_')) {
      config.private_keys.emplace_back(name, value.dump());
      continue;
    }
    if (const auto found = find_key(keys<Config>(), name); found != keys<Config>().end()) {
      found->read(value, source, config);
    } else if (unknown == UnknownKeys::refuse) {
      refuse(source, name, "a key of " + std::string(Signature<Config>::kClass), "an unknown one",
             suggestion<Config>(name));
    } else if (on_warning) {
      on_warning(source + ": unknown key " + name + " is ignored. " + suggestion<Config>(name));
    }
  }
  return config;
}

/// Adds the values of private keys to _class_name, each name once: the last of a name stands. By a table, as there may
/// be many.
void add_private(const std::vector<std::pair<std::string, std::string>>& keys, Json::Object& json) {
  std::map<std::string_view, std::size_t> places{{"_class_name", 0}};
  for (const auto& [name, value] : keys) {
    Json parsed = Json::parse(value, "config: " + name, refuse_as<ConfigError>);
    const auto [place, is_new] = places.emplace(name, json.size());
    if (is_new)
      json.emplace_back(name, std::move(parsed));
    else
      json[place->second].second = std::move(parsed);
  }
}

template <class Config>
std::string to_json(const Config& config) {
  const Config defaults;
  Json::Object first;
  first.emplace_back("_class_name", Signature<Config>::kClass);
  add_private(config.private_keys, first);
  Json json = std::move(first);
  for (const Key<Config>& key : keys<Config>()) {
    const auto& ours = Signature<Config>::ours;
    const bool always = std::find(ours.begin(), ours.end(), key.name) == ours.end();
    if (always || key.write(config) != key.write(defaults)) json[key.name] = key.write(config);
  }
  return json.dump(2) + "\n";
}

template <class Config>
void refuse_foreign(const Config& config) {
  const Config defaults;
  for (const Key<TransformerConfig>& shared : shared_keys()) {
    const auto own = find_key(keys<Config>(), shared.name);
    // A refused key of the same name keeps nothing of its own.
    const bool kept = own != keys<Config>().end() && own->write(config) == shared.write(config);
    if (!kept && shared.write(config) != shared.write(defaults))
      throw ConfigError(
          "config: " + std::string(shared.name),
          shared.write(defaults).dump() + ", as " + std::string(Signature<Config>::kClass) + " has no other",
          shared.write(config).dump());
  }
}

}  // namespace

void check_foreign_keys(const ModelConfig& config) {
  std::visit([](const auto& one) { refuse_foreign(one); }, config);
}

}  // namespace config

std::string_view name_of(Activation value) noexcept { return config::find_name(config::kActivations, value); }
std::string_view name_of(NormType value) noexcept { return config::find_name(config::kNormTypes, value); }
std::string_view name_of(GroupNormScope value) noexcept { return config::find_name(config::kScopes, value); }
std::string_view name_of(PositionalEmbeddings value) noexcept { return config::find_name(config::kPositions, value); }

const TransformerConfig& common(const ModelConfig& config) noexcept {
  return *std::visit([](const auto& one) -> const TransformerConfig* { return &one; }, config);
}

std::string_view class_name(const ModelConfig& config) noexcept {
  return *std::visit([]<class C>(const C&) { return &config::Signature<C>::kClass; }, config);
}

TransformerTemporalConfig TransformerTemporalConfig::from_json(std::string_view text, std::string_view where,
                                                               UnknownKeys unknown, const WarningHandler& on_warning) {
  return config::from_json<TransformerTemporalConfig>(text, where, unknown, on_warning);
}
TransformerTemporalConfig TransformerTemporalConfig::from_file(const std::filesystem::path& path, UnknownKeys unknown,
                                                               const WarningHandler& on_warning) {
  return from_json(checkpoint::read_text(path), path.string(), unknown, on_warning);
}
std::string TransformerTemporalConfig::to_json() const { return config::to_json(*this); }

Transformer2DConfig Transformer2DConfig::from_json(std::string_view text, std::string_view where, UnknownKeys unknown,
                                                   const WarningHandler& on_warning) {
  auto config = config::from_json<Transformer2DConfig>(text, where, unknown, on_warning);
  // Configurations from before norm_type: diffusers reads them so, with a warning.
  if (config.norm_type == NormType::layer_norm && config.num_embeds_ada_norm) config.norm_type = NormType::ada_norm;
  return config;
}
Transformer2DConfig Transformer2DConfig::from_file(const std::filesystem::path& path, UnknownKeys unknown,
                                                   const WarningHandler& on_warning) {
  return from_json(checkpoint::read_text(path), path.string(), unknown, on_warning);
}
std::string Transformer2DConfig::to_json() const { return config::to_json(*this); }

TransformerSpatioTemporalConfig TransformerSpatioTemporalConfig::from_json(std::string_view text,
                                                                           std::string_view where, UnknownKeys unknown,
                                                                           const WarningHandler& on_warning) {
  return config::from_json<TransformerSpatioTemporalConfig>(text, where, unknown, on_warning);
}
TransformerSpatioTemporalConfig TransformerSpatioTemporalConfig::from_file(const std::filesystem::path& path,
                                                                           UnknownKeys unknown,
                                                                           const WarningHandler& on_warning) {
  return from_json(checkpoint::read_text(path), path.string(), unknown, on_warning);
}
std::string TransformerSpatioTemporalConfig::to_json() const { return config::to_json(*this); }

ModelConfig read_config(const std::filesystem::path& path, UnknownKeys unknown, const WarningHandler& on_warning) {
  const std::string text = checkpoint::read_text(path), where = path.string();
  const Json json = parse_json<ConfigError>(text, where);
  const Json* const given = json.find("_class_name");
  const std::string name = (given ? given->as<std::string>() : std::nullopt).value_or("TransformerTemporalModel");
  if (name == config::Signature<Transformer2DConfig>::kClass)
    return Transformer2DConfig::from_json(text, where, unknown, on_warning);
  if (name == config::Signature<TransformerSpatioTemporalConfig>::kClass)
    return TransformerSpatioTemporalConfig::from_json(text, where, unknown, on_warning);
  if (name == config::Signature<TransformerTemporalConfig>::kClass)
    return TransformerTemporalConfig::from_json(text, where, unknown, on_warning);
  throw ConfigError(where + ": _class_name",
                    "TransformerTemporalModel, Transformer2DModel or TransformerSpatioTemporalModel", name);
}

}  // namespace kineograph

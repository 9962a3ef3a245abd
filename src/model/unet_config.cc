#include "model/unet_config.h"

#include <algorithm>
#include <charconv>

#include "base/json.h"
#include "base/mapped_file.h"
#include "kineograph/error.h"

namespace kineograph::model {
namespace {

using Json = nlohmann::json;

// diffusers' classes whose config.json speaks of our models; another's, beside a file by chance, is not read.
constexpr std::string_view kConfigClasses[] = {"TransformerTemporalModel",
                                               "MotionAdapter",
                                               "UNetMotionModel",
                                               "UNet3DConditionModel",
                                               "I2VGenXLUNet",
                                               "UNet2DConditionModel",
                                               "UNetSpatioTemporalConditionModel",
                                               "Transformer2DModel",
                                               "TransformerSpatioTemporalModel"};

/// N of "down_blocks.N..." for such a `prefix`.
std::optional<std::int64_t> block_of(std::string_view module, std::string_view prefix) {
  if (!module.starts_with(prefix)) return std::nullopt;
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(module.data() + prefix.size(), module.data() + module.size(), number);
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

}  // namespace

UNetConfig::UNetConfig(std::string_view text, const std::filesystem::path& path)
    : path_(path), json_(checkpoint::parse_json<Json, ConfigError>(text, path.string())) {
  const Json name = json_.value("_class_name", Json());
  // One without a class may be written by hand, but not by transformers.
  // Json on both sides: string_view == json is ambiguous under C++20's rule for rewritten comparisons (GCC 13).
  const bool known = name.is_null()
                         ? !json_.contains("model_type") && !json_.contains("architectures")
                         : std::any_of(std::begin(kConfigClasses), std::end(kConfigClasses),
                                       [&](std::string_view known_class) { return name == Json(known_class); });
  if (!known) json_ = Json();
}

UNetConfig UNetConfig::beside(const std::filesystem::path& file) {
  const std::filesystem::path path = file.parent_path() / "config.json";
  return std::filesystem::exists(path) ? UNetConfig(checkpoint::read_text(path), path) : UNetConfig();
}

bool UNetConfig::is_of(std::string_view class_name) const {
  return json_.is_object() && json_.value("_class_name", Json()) == Json(class_name);
}

std::optional<std::int64_t> UNetConfig::integer(const std::string& key, std::string_view module) const {
  if (!json_.is_object() || !json_.contains(key) || json_[key].is_null()) return std::nullopt;
  const Json* value = &json_[key];
  if (value->is_array() && !value->empty()) {
    const auto last = static_cast<std::int64_t>(value->size()) - 1;
    std::int64_t index = block_of(module, "down_blocks.").value_or(last);
    if (const auto up = block_of(module, "up_blocks.")) index = last - *up;
    value = &(*value)[static_cast<std::size_t>(std::clamp<std::int64_t>(index, 0, last))];
  }
  if (!value->is_number_integer() || value->get<std::int64_t>() < 1)
    throw ConfigError(path_.string() + ": " + key, "a positive integer", value->dump());
  return value->get<std::int64_t>();
}

}  // namespace kineograph::model

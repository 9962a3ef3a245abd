#include "model/unet_config.h"

#include <algorithm>
#include <charconv>

#include "base/mapped_file.h"
#include "kineograph/error.h"

namespace kineograph::model {
namespace {

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
    : path_(path), json_(parse_json<ConfigError>(text, path.string())) {
  const Json* const name = json_.find("_class_name");
  // One without a class may be written by hand, but not by transformers.
  const bool known = name == nullptr || name->is_null()
                         ? !json_.find("model_type") && !json_.find("architectures")
                         : std::any_of(std::begin(kConfigClasses), std::end(kConfigClasses),
                                       [&](std::string_view known_class) { return is_of(known_class); });
  if (!known) json_ = Json();
}

UNetConfig UNetConfig::beside(const std::filesystem::path& file) {
  const std::filesystem::path path = file.parent_path() / "config.json";
  return std::filesystem::exists(path) ? UNetConfig(checkpoint::read_text(path), path) : UNetConfig();
}

bool UNetConfig::is_of(std::string_view class_name) const {
  const Json* const name = json_.find("_class_name");
  return name != nullptr && name->as<std::string>() == class_name;
}

std::optional<std::int64_t> UNetConfig::integer(const std::string& key, std::string_view module) const {
  const Json* value = json_.find(key);
  if (value == nullptr || value->is_null()) return std::nullopt;
  if (const Json::Array* list = value->array(); list != nullptr && !list->empty()) {
    const auto last = static_cast<std::int64_t>(list->size()) - 1;
    std::int64_t index = block_of(module, "down_blocks.").value_or(last);
    if (const auto up = block_of(module, "up_blocks.")) index = last - *up;
    value = &(*list)[static_cast<std::size_t>(std::clamp<std::int64_t>(index, 0, last))];
  }
  const auto integer = value->as<std::int64_t>();
  if (!integer || *integer < 1) throw ConfigError(path_.string() + ": " + key, "a positive integer", value->dump());
  return integer;
}

}  // namespace kineograph::model

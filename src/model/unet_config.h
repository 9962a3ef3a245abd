// The config.json of a UNet or an adapter, as far as it speaks of temporal modules.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace kineograph::model {

class UNetConfig {
 public:
  /// One that says nothing.
  UNetConfig() = default;
  /// Says nothing either where it is the configuration of something else. Throws ConfigError for what is no JSON
  /// object.
  UNetConfig(std::string_view text, const std::filesystem::path& path);
  /// The one in the folder of `file`, if there is one. Throws IoError, ConfigError.
  static UNetConfig beside(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  bool is_of(std::string_view class_name) const;
  /// The value for a module; where the file has a list, with a value a block: down_blocks in order, mid_block the last,
  /// up_blocks in reverse. nullopt where it has none. Throws ConfigError for what is no positive integer.
  std::optional<std::int64_t> integer(const std::string& key, std::string_view module) const;

 private:
  std::filesystem::path path_;
  Json json_;
};

}  // namespace kineograph::model

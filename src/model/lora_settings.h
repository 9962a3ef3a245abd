// What PEFT says of a LoRA's scaling: adapter_config.json, or diffusers' metadata.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kineograph/checkpoint.h"

namespace kineograph::model {

class LoraSettings {
 public:
  /// Those of a LoRA file: in its metadata, or in the adapter_config.json beside it; without either, none. Throws
  /// IoError, FormatError.
  LoraSettings(const Checkpoint& checkpoint, const std::filesystem::path& file);

  /// The factor of a layer: lora_alpha / r, or / sqrt(r) with use_rslora; 1 where nothing says otherwise. `layers` are
  /// the names by which the layer may be known, of which the first that a pattern matches counts.
  double factor(const std::vector<std::string>& layers, std::int64_t rank) const;
  /// The rank that the settings say, by `rank_pattern` or `r`.
  std::optional<std::int64_t> rank(const std::vector<std::string>& layers) const;
  /// What they ask for that is no product of two factors, in words: DoRA, biases; empty for nothing.
  const std::string& unsupported() const { return unsupported_; }

 private:
  /// PEFT's patterns: regular expressions for the end of a path, after a dot or the whole; the first that matches.
  class Patterns {
   public:
    void add(const std::string& where, const std::string& pattern, double value);
    std::optional<double> find(const std::vector<std::string>& layers) const;

   private:
    std::vector<std::pair<std::regex, double>> patterns_;
  };

  void read(std::string_view text);

  std::string where_, unsupported_;
  std::optional<double> alpha_, rank_;
  Patterns alphas_, ranks_;
  bool rslora_ = false;
};

}  // namespace kineograph::model

#include "model/lora_settings.h"

#include <cmath>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/text.h"

namespace kineograph::model {
namespace {

// PEFT's settings: a file beside the weights, or, from diffusers, text among the metadata with "unet." before its keys.
constexpr const char *kPeftConfig = "adapter_config.json", *kMetadata = "lora_adapter_metadata";
// A pattern names layers; a longer one, or thousands of them, were made to cost time.
constexpr std::size_t kLongestPattern = 1024, kMostPatterns = 4096;

// libstdc++ matches in polynomial time with this flag, where a backtracking matcher may take exponential time.
#ifdef __GLIBCXX__
constexpr auto kSyntax = std::regex::ECMAScript | std::regex::optimize | std::regex_constants::__polynomial;
#else
constexpr auto kSyntax = std::regex::ECMAScript | std::regex::optimize;
#endif

double number(const std::string& where, const Json& json) {
  if (const auto value = json.as<double>()) return *value;
  throw FormatError(where, "a number", shortened(json.dump()));
}

}  // namespace

void LoraSettings::Patterns::add(const std::string& where, const std::string& pattern, double value) {
  if (pattern.size() > kLongestPattern || patterns_.size() >= kMostPatterns)
    throw FormatError(where,
                      "at most " + std::to_string(kMostPatterns) + " patterns of at most " +
                          std::to_string(kLongestPattern) + " bytes",
                      "more");
  try {
    // As PEFT does: re.match(r"(.*\.)?(PATTERN)$", layer); a leading ^ then matches the beginning of the path only.
    const bool anchored = pattern.starts_with('^');
    const std::string inner = anchored ? pattern.substr(1) : pattern;
    patterns_.emplace_back(std::regex((anchored ? "(" : "(?:.*\\.)?(?:") + inner + ")", kSyntax), value);
  } catch (const std::regex_error&) {
    throw FormatError(where, "a regular expression for paths of layers", shortened(pattern));
  }
}

std::optional<double> LoraSettings::Patterns::find(const std::vector<std::string>& layers) const {
  for (const auto& [pattern, value] : patterns_)
    for (const std::string& layer : layers)
      if (std::regex_match(layer, pattern)) return value;
  return std::nullopt;
}

LoraSettings::LoraSettings(const Checkpoint& checkpoint, const std::filesystem::path& file) {
  const auto metadata = checkpoint.metadata().find(kMetadata);
  const auto beside = file.parent_path() / kPeftConfig;
  std::error_code unknown;
  if (metadata != checkpoint.metadata().end())
    where_ = file.string() + ": " + kMetadata, read(metadata->second);
  else if (std::filesystem::exists(beside, unknown))
    where_ = beside.string(), read(checkpoint::read_text(beside));
}

void LoraSettings::read(std::string_view text) {
  const Json json = parse_json<FormatError>(text, where_);
  const auto find = [&](const std::string& key) {
    const Json *const prefixed = json.find("unet." + key), *const plain = json.find(key);
    return prefixed ? *prefixed : plain ? *plain : Json();
  };
  if (const Json alpha = find("lora_alpha"); !alpha.is_null()) alpha_ = number(where_ + ": lora_alpha", alpha);
  if (const Json rank = find("r"); !rank.is_null()) rank_ = number(where_ + ": r", rank);
  rslora_ = find("use_rslora") == Json(true);
  if (find("use_dora") == Json(true)) unsupported_ = "a DoRA";
  if (const Json bias = find("lora_bias"); bias == Json(true)) unsupported_ = "biases";
  for (const auto& [key, patterns] : {std::pair("alpha_pattern", &alphas_), std::pair("rank_pattern", &ranks_)}) {
    const Json given = find(key);
    if (!given.object()) continue;
    const std::string where = where_ + ": " + key;
    for (const auto& [pattern, value] : *given.object()) patterns->add(where, pattern, number(where, value));
  }
}

double LoraSettings::factor(const std::vector<std::string>& layers, std::int64_t rank) const {
  const std::optional<double> found = alphas_.find(layers), alpha = found ? found : alpha_;
  if (!alpha) return 1.0;
  const auto r = static_cast<double>(rank);
  return *alpha / (rslora_ ? std::sqrt(r) : r);
}

std::optional<std::int64_t> LoraSettings::rank(const std::vector<std::string>& layers) const {
  const std::optional<double> found = ranks_.find(layers), rank = found ? found : rank_;
  if (!rank || !(*rank >= 1 && *rank <= 1 << 20)) return std::nullopt;
  return static_cast<std::int64_t>(*rank);
}

}  // namespace kineograph::model

#include "model/lora_keys.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

namespace kineograph::model {
namespace {

using Part = LoraKey::Part;
using Parts = std::vector<std::string_view>;

// The last components of a factor's key, before a ".weight" that may be there.
constexpr std::pair<std::string_view, Part> kFactors[] = {
    {"lora_A", Part::down}, {"lora_B", Part::up}, {"lora_down", Part::down}, {"lora_up", Part::up}};
// ... and in two components: "lora.down", "to_q_lora.up".
constexpr std::pair<std::string_view, Part> kSides[] = {{"down", Part::down}, {"up", Part::up}};
constexpr std::string_view kSideOwners[] = {"lora", "lora_layer", "lora_linear_layer"};

// Components of other methods' keys, and what they are called.
constexpr std::pair<std::string_view, std::string_view> kOthers[] = {
    {"lora_magnitude_vector", "a DoRA"},
    {"dora_scale", "a DoRA"},
    {"lora_embedding_A", "a LoRA of an embedding"},
    {"lora_embedding_B", "a LoRA of an embedding"},
    {"lora_mid", "a LoCon with a core tensor"},
    {"lora_E", "an AdaLoRA"},
    {"hada_w1_a", "a LoHa"},
    {"hada_w1_b", "a LoHa"},
    {"hada_w2_a", "a LoHa"},
    {"hada_w2_b", "a LoHa"},
    {"lokr_w1", "a LoKr"},
    {"lokr_w2", "a LoKr"},
    {"lokr_w1_a", "a LoKr"},
    {"lokr_w1_b", "a LoKr"},
    {"lokr_w2_a", "a LoKr"},
    {"lokr_w2_b", "a LoKr"},
    {"ia3_l", "an IA3"},
    {"oft_R", "an OFT"},
    {"oft_blocks", "an OFT"},
    {"diff", "a difference of weights"},
    {"diff_b", "a difference of biases"},
};

// The components of a temporal module's path, for names in which underscores stand for dots.
constexpr std::string_view kBlocks[] = {"down_blocks",  "mid_block",    "up_blocks",    "transformer_in",
                                        "input_blocks", "middle_block", "output_blocks"};
constexpr std::string_view kInside[] = {"motion_modules",
                                        "temporal_attentions",
                                        "temp_attentions",
                                        "temporal_transformer",
                                        "transformer_blocks",
                                        "attention_blocks",
                                        "attn1",
                                        "attn2",
                                        "processor",
                                        "to_q",
                                        "to_k",
                                        "to_v",
                                        "to_out",
                                        "ff",
                                        "net",
                                        "proj_in",
                                        "proj_out",
                                        "proj"};

constexpr std::size_t kLongestKey = 1024;

Parts split(std::string_view name) {
  Parts parts;
  for (std::size_t at = 0; at <= name.size();) {
    const std::size_t dot = std::min(name.find('.', at), name.size());
    parts.push_back(name.substr(at, dot - at));
    at = dot + 1;
  }
  return parts;
}

std::string join(const Parts& parts, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += (i == 0 ? "" : ".") + std::string(parts[i]);
  return text;
}

template <class Value, std::size_t N>
const Value* find(const std::pair<std::string_view, Value> (&table)[N], std::string_view part) {
  for (const auto& [name, value] : table)
    if (name == part) return &value;
  return nullptr;
}

/// A factor whose key is `parts` without ".weight": the last component or the last two say which.
std::optional<LoraKey> read_factor(const Parts& parts) {
  const std::size_t n = parts.size();
  if (n >= 2)
    if (const Part* part = find(kFactors, parts[n - 1])) return LoraKey{*part, join(parts, n - 1), "", ""};
  if (n < 3) return std::nullopt;
  if (const Part* part = find(kFactors, parts[n - 2]))
    return LoraKey{*part, join(parts, n - 2), std::string(parts[n - 1]), ""};
  const Part* part = find(kSides, parts[n - 1]);
  if (part == nullptr) return std::nullopt;
  constexpr std::string_view kSuffix = "_lora";
  const std::string_view owner = parts[n - 2];
  if (std::find(std::begin(kSideOwners), std::end(kSideOwners), owner) != std::end(kSideOwners))
    return LoraKey{*part, join(parts, n - 2), "", ""};
  if (!owner.ends_with(kSuffix)) return std::nullopt;
  return LoraKey{*part, join(parts, n - 2) + "." + std::string(owner.substr(0, owner.size() - kSuffix.size())), "", ""};
}

/// The number or the word of a temporal module's path that `text` begins with, as far as an underscore or the end.
std::string_view next_word(std::string_view text) {
  const auto ends = [&](std::size_t size) { return size == text.size() || text[size] == '_'; };
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  if (digits != 0 && ends(digits)) return text.substr(0, digits);
  std::string_view longest;
  const auto look = [&](std::string_view word) {
    if (text.starts_with(word) && ends(word.size()) && word.size() > longest.size()) longest = word;
  };
  for (const std::string_view word : kBlocks) look(word);
  for (const std::string_view word : kInside) look(word);
  return longest;
}

/// "lora_unet_down_blocks_0_motion_modules_1_..." -> "down_blocks.0.motion_modules.1. ..."; empty for other names.
std::string with_dots(std::string_view name) {
  std::size_t from = name.size();
  for (const std::string_view block : kBlocks)
    for (std::size_t at = name.find(block); at != std::string_view::npos; at = name.find(block, at + 1))
      if (at == 0 || name[at - 1] == '_') from = std::min(from, at);
  std::string path;
  while (from < name.size()) {
    const std::string_view word = next_word(name.substr(from));
    if (word.empty()) return {};
    path += (path.empty() ? "" : ".") + std::string(word);
    from += word.size() + 1;
  }
  return path;
}

}  // namespace

std::optional<LoraKey> read_lora_key(std::string_view key) {
  if (key.size() > kLongestKey) return std::nullopt;
  Parts parts = split(key);
  for (std::size_t i = parts.size(); i-- > 1;)
    if (const auto* kind = find(kOthers, parts[i])) return LoraKey{Part::other, join(parts, i), "", std::string(*kind)};
  if (parts.size() > 1 && (parts.back() == "alpha" || parts.back() == "lora_alpha"))
    return LoraKey{Part::alpha, join(parts, parts.size() - 1), "", ""};
  const bool bias = parts.back() == "bias";
  if (parts.back() == "weight" || bias) parts.pop_back();
  std::optional<LoraKey> read = read_factor(parts);
  if (read && bias) read->part = Part::other, read->kind = "a bias";
  return read;
}

std::optional<Place> lora_target(std::string_view layer) {
  constexpr std::string_view kProcessor = ".processor.";
  // Kohya's name is one component, below whatever holds it.
  std::string path = with_dots(layer.substr(layer.rfind('.') + 1));
  if (path.empty()) path = layer;
  if (const std::size_t at = path.find(kProcessor); at != std::string::npos) path.erase(at, kProcessor.size() - 1);
  if (path.ends_with(".to_out")) path += ".0";
  return place_of(path + ".weight");
}

}  // namespace kineograph::model

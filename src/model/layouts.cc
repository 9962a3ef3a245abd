// Where the temporal modules are in published checkpoints, and in what training scripts make of them.
#include "model/layouts.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>

namespace kineograph {
namespace {

using Parts = std::vector<std::string_view>;
using model::Place;

/// A list of modules in a block: its name in a file, diffusers' name of it, and the layout it belongs to.
struct ModuleList {
  std::string_view name, in_diffusers;
  Layout layout;
};
constexpr ModuleList kLists[] = {
    {"motion_modules", "motion_modules", Layout::motion_adapter},
    {"temporal_attentions", "motion_modules", Layout::animatediff},  // HotshotXL
    {"temp_attentions", "temp_attentions", Layout::unet_3d},
};

// Components with which a path inside a UNet begins; whatever stands before is a prefix.
constexpr std::string_view kBeginnings[] = {"down_blocks",  "mid_block",    "up_blocks",    "transformer_in",
                                            "input_blocks", "middle_block", "output_blocks"};

// Components that wrappers put in the middle of a path: torch.compile, data parallelism, FSDP, checkpointing, PEFT.
constexpr std::string_view kWrappers[] = {
    "_orig_mod",       "module",     "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
    "_forward_module", "base_layer", "original_module"};

// No parameter has a longer path. Beyond, a name is made to cost time.
constexpr std::size_t kLongestName = 1024;

template <std::size_t N>
bool contains(const std::string_view (&table)[N], std::string_view part) {
  return std::find(std::begin(table), std::end(table), part) != std::end(table);
}

Parts split(std::string_view name) {
  Parts parts;
  for (std::size_t at = 0; at <= name.size();) {
    const std::size_t dot = std::min(name.find('.', at), name.size());
    parts.push_back(name.substr(at, dot - at));
    at = dot + 1;
  }
  return parts;
}

std::string join(const Parts& parts, std::size_t from) {
  std::string text;
  for (std::size_t i = from; i < parts.size(); ++i) text += (i == from ? "" : ".") + std::string(parts[i]);
  return text;
}

std::optional<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > 999) return std::nullopt;
  return value;
}

/// The own names of a spatial module: a temporal one's, and TransformerSpatioTemporalModel's.
bool is_spatial_parameter(const Parts& parts, std::size_t from) {
  static constexpr std::string_view kOwn[] = {
      "norm",           "proj_in",   "proj_out", "transformer_blocks", "temporal_transformer_blocks",
      "time_pos_embed", "time_mixer"};
  return parts.size() > from + 1 && std::find(std::begin(kOwn), std::end(kOwn), parts[from]) != std::end(kOwn);
}

/// Stable Video Diffusion's original names as diffusers'; all others are the same.
std::string spatial_parameter(const Parts& parts, std::size_t from) {
  if (parts[from] == "time_stack") return "temporal_transformer_blocks." + join(parts, from + 1);
  if (parts[from] == "time_pos_embed" && parts[from + 1] == "0")
    return "time_pos_embed.linear_1." + join(parts, from + 2);
  if (parts[from] == "time_pos_embed" && parts[from + 1] == "2")
    return "time_pos_embed.linear_2." + join(parts, from + 2);
  return join(parts, from);
}

/// The original UNets count the blocks through, three a level, with the spatial transformer second in each.
std::optional<model::SpatialPlace> place_in_original(const Parts& parts) {
  const auto make = [&](std::string module, std::size_t inside) -> std::optional<model::SpatialPlace> {
    const bool own =
        is_spatial_parameter(parts, inside) || (parts.size() > inside + 1 && parts[inside] == "time_stack");
    if (!own) return std::nullopt;
    return model::SpatialPlace{std::move(module), spatial_parameter(parts, inside)};
  };
  if (parts.size() > 3 && parts[0] == "middle_block" && parts[1] == "1") return make("mid_block.attentions.0", 2);
  if (parts.size() < 5 || parts[2] != "1") return std::nullopt;
  const auto index = number(parts[1]);
  const auto block = [&](const char* name, std::int64_t i) {
    return std::string(name) + "." + std::to_string(i / 3) + ".attentions." + std::to_string(i % 3);
  };
  if (parts[0] == "input_blocks" && index && *index > 0) return make(block("down_blocks", *index - 1), 3);
  if (parts[0] == "output_blocks" && index) return make(block("up_blocks", *index), 3);
  return std::nullopt;
}

bool is_parameter(const Parts& parts, std::size_t from) {
  return parts.size() > from + 1 && (parts[from] == "norm" || parts[from] == "proj_in" || parts[from] == "proj_out" ||
                                     parts[from] == "transformer_blocks");
}

/// transformer_blocks.L.attention_blocks.A -> .attn(A+1), norms.N -> norm(N+1), ff_norm -> norm3; others as they are.
std::string diffusers_parameter(const Parts& parts, std::size_t from) {
  static const std::map<std::string_view, std::array<std::string_view, 2>> numbered = {
      {"attention_blocks", {"attn1", "attn2"}}, {"norms", {"norm1", "norm2"}}};
  std::string name;
  for (std::size_t i = from; i < parts.size(); ++i) {
    std::string_view part = parts[i];
    const auto found = numbered.find(part);
    if (found != numbered.end() && i + 1 < parts.size() && (parts[i + 1] == "0" || parts[i + 1] == "1"))
      part = found->second[parts[++i] == "1"];
    else if (part == "ff_norm")
      part = "norm3";
    else if (part == "positional_encoding" && i > from && parts[i - 1] == "pos_encoder")
      part = "pe";
    name += (name.empty() ? "" : ".") + std::string(part);
  }
  return name;
}

/// down_blocks.N, mid_block or up_blocks.N; the index after it, 0 for what is none of them.
std::size_t skip_block(const Parts& parts) {
  if (parts.size() > 2 && (parts[0] == "down_blocks" || parts[0] == "up_blocks") && number(parts[1])) return 2;
  return parts.size() > 1 && parts[0] == "mid_block" ? 1 : 0;
}

std::optional<Place> place_in_blocks(const Parts& parts) {
  const std::size_t block = skip_block(parts);
  if (block == 0 || parts.size() < block + 3 || !number(parts[block + 1])) return std::nullopt;
  const auto* list = std::find_if(std::begin(kLists), std::end(kLists),
                                  [&](const ModuleList& known) { return known.name == parts[block]; });
  if (list == std::end(kLists)) return std::nullopt;
  const bool original = parts[block + 2] == "temporal_transformer";
  const std::size_t inside = block + (original ? 3 : 2);
  if (!is_parameter(parts, inside)) return std::nullopt;
  Place place{original ? Layout::animatediff : list->layout, "", "", diffusers_parameter(parts, inside)};
  if (place.layout == Layout::motion_adapter && place.parameter != join(parts, inside))
    place.layout = Layout::animatediff;
  for (std::size_t i = 0; i < block; ++i) place.module += std::string(parts[i]) + ".";
  place.module += std::string(list->in_diffusers) + "." + std::string(parts[block + 1]);
  return place;
}

/// ModelScope counts the blocks through: three a level, with the temporal transformer third in each.
std::optional<Place> place_in_modelscope(const Parts& parts) {
  const auto make = [&](std::string module, std::size_t inside) -> std::optional<Place> {
    if (!is_parameter(parts, inside)) return std::nullopt;
    return Place{Layout::modelscope, "", std::move(module), diffusers_parameter(parts, inside)};
  };
  if (parts.size() > 2 && parts[0] == "middle_block" && parts[1] == "2") return make("mid_block.temp_attentions.0", 2);
  if (parts.size() < 4) return std::nullopt;
  const auto index = number(parts[1]);
  if (!index) return std::nullopt;
  if (parts[0] == "input_blocks" && *index == 0 && parts[2] == "1") return make("transformer_in", 3);
  const auto block = [&](const char* name, std::int64_t i) {
    return std::string(name) + "." + std::to_string(i / 3) + ".temp_attentions." + std::to_string(i % 3);
  };
  if (parts[0] == "input_blocks" && *index > 0 && parts[2] == "2") return make(block("down_blocks", *index - 1), 3);
  if (parts[0] == "output_blocks" && parts[2] == "2") return make(block("up_blocks", *index), 3);
  return std::nullopt;
}

Parts without_wrappers(const Parts& parts, std::size_t from) {
  Parts path;
  for (std::size_t i = from; i < parts.size(); ++i)
    if (!contains(kWrappers, parts[i])) path.push_back(parts[i]);
  return path;
}

/// Where the parameter of a module by itself begins: after components that are no part of a larger model's path, in
/// which other transformers have the same names. parts.size() for none.
template <class IsOwn>
std::size_t find_single(const Parts& parts, const IsOwn& is_own) {
  for (std::size_t at = 0; at < parts.size(); ++at) {
    if (is_own(parts, at)) return at;
    if (contains(kBeginnings, parts[at]) || number(parts[at])) break;
  }
  return parts.size();
}

/// A name's place: from the first component on that `in_unet` knows as the beginning of a path, or, where a parameter
/// that `is_own` begins, as `by_itself` makes it. What stands before is the prefix.
template <class InUNet, class IsOwn, class ByItself>
auto find_place(std::string_view name, const InUNet& in_unet, const IsOwn& is_own, const ByItself& by_itself) {
  decltype(in_unet(Parts())) place;
  if (name.size() > kLongestName) return place;
  const Parts parts = split(name);
  std::size_t at = 0;
  for (; at < parts.size() && !place; at += place ? 0 : 1)
    if (contains(kBeginnings, parts[at])) place = in_unet(without_wrappers(parts, at));
  if (!place && (at = find_single(parts, is_own)) < parts.size())
    if (const Parts path = without_wrappers(parts, at); is_own(path, 0)) place = by_itself(path);
  if (place) place->prefix = join(Parts(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(at)), 0);
  return place;
}

std::optional<Place> place_in_unet(const Parts& path) {
  if (path[0] == "transformer_in" && is_parameter(path, 1))
    return Place{Layout::unet_3d, "", "transformer_in", diffusers_parameter(path, 1)};
  if (auto place = place_in_blocks(path)) return place;
  return place_in_modelscope(path);
}

std::optional<model::SpatialPlace> spatial_place_in_unet(const Parts& path) {
  const std::size_t block = skip_block(path);
  if (block == 0) return place_in_original(path);
  if (path.size() < block + 3 || path[block] != "attentions" || !number(path[block + 1]) ||
      !is_spatial_parameter(path, block + 2))
    return std::nullopt;
  std::string module;
  for (std::size_t i = 0; i < block + 2; ++i) module += (i == 0 ? "" : ".") + std::string(path[i]);
  return model::SpatialPlace{module, join(path, block + 2)};
}

}  // namespace

std::optional<model::SpatialPlace> model::spatial_place_of(std::string_view name) {
  return find_place(name, spatial_place_in_unet, is_spatial_parameter, [](const Parts& path) {
    return SpatialPlace{"", join(path, 0)};
  });
}

std::optional<Place> model::place_of(std::string_view name) {
  return find_place(name, place_in_unet, is_parameter, [](const Parts& path) {
    return Place{Layout::module, "", "", diffusers_parameter(path, 0)};
  });
}

std::vector<std::int64_t> model::order_of(const std::string& name) {
  std::vector<std::int64_t> order;
  for (const std::string_view part : split(name)) {
    static const std::map<std::string_view, std::int64_t> places = {
        {"transformer_in", -1}, {"down_blocks", 0}, {"mid_block", 1}, {"up_blocks", 2}};
    const auto place = places.find(part);
    order.push_back(place != places.end() ? place->second : number(part).value_or(0));
  }
  return order;
}

std::string model::animatediff_key(std::string_view module, std::string_view parameter) {
  static const std::map<std::string_view, std::string_view> renamed = {{"attn1", "attention_blocks.0"},
                                                                       {"attn2", "attention_blocks.1"},
                                                                       {"norm1", "norms.0"},
                                                                       {"norm2", "norms.1"},
                                                                       {"norm3", "ff_norm"}};
  std::string key = std::string(module) + ".temporal_transformer";
  for (const std::string_view part : split(parameter)) {
    const auto found = renamed.find(part);
    key += "." + std::string(found == renamed.end() ? part : found->second);
  }
  return key;
}

}  // namespace kineograph

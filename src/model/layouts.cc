// Where the temporal modules are in published checkpoints.
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

// What stands before the layout's own names in some files.
constexpr std::string_view kPrefixes[] = {"module.", "model.diffusion_model.", "diffusion_model.", "unet.", "model."};

std::string_view without_prefixes(std::string_view name) {
  for (const std::string_view prefix : kPrefixes)
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
  return name;
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

/// transformer_blocks.L.attention_blocks.A -> .attn(A+1), norms.N -> norm(N+1), ff_norm -> norm3.
std::string animatediff_parameter(const Parts& parts, std::size_t from) {
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
  std::string module;
  for (std::size_t i = 0; i < block + 2; ++i) module += (i == 0 ? "" : ".") + std::string(parts[i]);
  const std::size_t inside = block + 2;
  if (parts[block] == "temp_attentions" && is_parameter(parts, inside))
    return Place{Layout::unet_3d, module, join(parts, inside)};
  if (parts[block] != "motion_modules") return std::nullopt;
  if (parts[inside] == "temporal_transformer" && is_parameter(parts, inside + 1))
    return Place{Layout::animatediff, module, animatediff_parameter(parts, inside + 1)};
  if (is_parameter(parts, inside)) return Place{Layout::motion_adapter, module, join(parts, inside)};
  return std::nullopt;
}

/// ModelScope counts the blocks through: three a level, with the temporal transformer third in each.
std::optional<Place> place_in_modelscope(const Parts& parts) {
  const auto make = [&](std::string module, std::size_t inside) -> std::optional<Place> {
    if (!is_parameter(parts, inside)) return std::nullopt;
    return Place{Layout::modelscope, std::move(module), join(parts, inside)};
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

}  // namespace

std::optional<model::SpatialPlace> model::spatial_place_of(std::string_view name) {
  const Parts parts = split(without_prefixes(name));
  if (is_spatial_parameter(parts, 0)) return SpatialPlace{"", join(parts, 0)};
  const std::size_t block = skip_block(parts);
  if (block == 0) return place_in_original(parts);
  if (parts.size() < block + 3 || parts[block] != "attentions" || !number(parts[block + 1]) ||
      !is_spatial_parameter(parts, block + 2))
    return std::nullopt;
  std::string module;
  for (std::size_t i = 0; i < block + 2; ++i) module += (i == 0 ? "" : ".") + std::string(parts[i]);
  return SpatialPlace{module, join(parts, block + 2)};
}

std::optional<Place> model::place_of(std::string_view name) {
  name = without_prefixes(name);
  const Parts parts = split(name);
  if (is_parameter(parts, 0)) return Place{Layout::module, "", std::string(name)};
  if (parts[0] == "transformer_in" && is_parameter(parts, 1))
    return Place{Layout::unet_3d, "transformer_in", join(parts, 1)};
  if (auto place = place_in_blocks(parts)) return place;
  return place_in_modelscope(parts);
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

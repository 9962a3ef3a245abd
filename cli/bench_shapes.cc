#include "bench_shapes.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

namespace kineograph::cli {

namespace {

const Preset* preset_named(const std::string& name) {
  for (const Preset& preset : presets())
    if (preset.name == name && !std::holds_alternative<TransformerTemporalConfig>(preset.config)) return &preset;
  return nullptr;
}

/// A spatial preset over B videos of F frames of H x W pixels, with a text of `tokens` for every video.
BenchShape spatial(const std::string& id, const std::string& preset, const std::array<std::int64_t, 4>& size,
                   std::int64_t tokens) {
  const TransformerConfig& c = common(preset_named(preset)->config);
  return {id, size[0], size[1], *c.in_channels, size[2], size[3], c.num_attention_heads, c.attention_head_dim,
          0,  preset,  tokens};
}

/// PRESET@BxFxHxW:tokens.
std::optional<BenchShape> parse_spatial(const std::string& text) {
  const std::size_t at = text.find('@');
  if (at == std::string::npos || preset_named(text.substr(0, at)) == nullptr) return std::nullopt;
  std::array<std::int64_t, 4> size{};
  std::int64_t tokens = 0;
  int end = 0;
  const std::string rest = text.substr(at + 1);
  const int read =
      std::sscanf(rest.c_str(), "%ldx%ldx%ldx%ld:%ld%n", &size[0], &size[1], &size[2], &size[3], &tokens, &end);
  const bool positive = std::min({size[0], size[1], size[2], size[3], tokens}) > 0;
  if (read != 5 || static_cast<std::size_t>(end) != rest.size() || !positive) return std::nullopt;
  return spatial(text, text.substr(0, at), size, tokens);
}

/// Operations of one token of a spatial model, which attends to `partners` and to a text.
double spatial_flops(const BenchShape& s) {
  const ModelConfig& config = preset_named(s.preset)->config;
  const double inner = static_cast<double>(s.heads * s.head_dim), width = static_cast<double>(s.channels);
  const double pixels = static_cast<double>(s.height * s.width), text = static_cast<double>(s.tokens);
  const double tokens = static_cast<double>(s.videos * s.frames) * pixels;
  const double text_width = static_cast<double>(*common(config).cross_attention_dim);
  const double layers = static_cast<double>(common(config).num_layers);
  // Eight inner^2 for attn1's projections, four for attn2's, 24 for the feed-forward; then scores and values.
  const double block = 36.0 * inner * inner + 4.0 * inner * text;
  // Keys and values of a video's text, which all its rows share.
  const double text_products = static_cast<double>(s.videos) * 4.0 * text * text_width * inner;
  double flops = tokens * (4.0 * width * inner + layers * (block + 4.0 * inner * pixels)) + layers * text_products;
  if (std::holds_alternative<TransformerSpatioTemporalConfig>(config))
    flops += layers *
             (tokens * (block + 24.0 * inner * inner + 4.0 * inner * static_cast<double>(s.frames)) + text_products);
  return flops;
}

}  // namespace

const std::vector<BenchShape>& known_shapes() {
  static const std::vector<BenchShape> shapes = {{"AD-0", 2, 16, 320, 64, 64, 8, 40, 32},
                                                 {"AD-1", 2, 16, 640, 32, 32, 8, 80, 32},
                                                 {"AD-2", 2, 16, 1280, 16, 16, 8, 160, 32},
                                                 {"AD-3", 2, 16, 1280, 8, 8, 8, 160, 32},
                                                 {"XL-0", 2, 16, 320, 128, 128, 8, 40, 32},
                                                 {"MS-in", 2, 16, 320, 32, 32, 8, 64, 0},
                                                 {"MS-0", 2, 16, 320, 32, 32, 5, 64, 0},
                                                 {"ZS-in", 2, 24, 320, 40, 72, 8, 64, 0},
                                                 {"ZS-0", 2, 24, 320, 40, 72, 5, 64, 0},
                                                 {"ZS-1", 2, 24, 640, 20, 36, 10, 64, 0},
                                                 {"ZS-2", 2, 24, 1280, 10, 18, 20, 64, 0},
                                                 {"ZS-mid", 2, 24, 1280, 5, 9, 20, 64, 0},
                                                 {"I2V-0", 2, 16, 320, 88, 160, 5, 64, 0},
                                                 {"GRID", 2, 16, 320, 192, 192, 8, 40, 32},
                                                 {"AD-0s", 1, 16, 320, 64, 64, 8, 40, 32},
                                                 {"AD-1s", 1, 16, 640, 32, 32, 8, 80, 32},
                                                 {"AD-2s", 1, 16, 1280, 16, 16, 8, 160, 32},
                                                 {"small", 1, 16, 320, 32, 32, 8, 40, 32},
                                                 spatial("SD-0", "sd15/320", {2, 16, 64, 64}, 77),
                                                 spatial("SD-1", "sd15/640", {2, 16, 32, 32}, 77),
                                                 spatial("SD-2", "sd15/1280", {2, 16, 16, 16}, 77),
                                                 spatial("SD-3", "sd15/1280", {2, 16, 8, 8}, 77),
                                                 spatial("SD-0s", "sd15/320", {2, 16, 32, 32}, 77),
                                                 spatial("SVD-0", "svd/320", {2, 14, 72, 128}, 1),
                                                 spatial("SVD-1", "svd/640", {2, 14, 36, 64}, 1),
                                                 spatial("SVD-2", "svd/1280", {2, 14, 18, 32}, 1),
                                                 spatial("SVD-0s", "svd/320", {2, 14, 32, 32}, 1)};
  return shapes;
}

BenchShape parse_shape(const std::string& text) {
  for (const BenchShape& shape : known_shapes())
    if (shape.id == text) return shape;
  if (const std::optional<BenchShape> shape = parse_spatial(text)) return *shape;
  BenchShape s{text, 0, 0, 0, 0, 0, 0, 0, 0};
  int end = 0;
  const int read = std::sscanf(text.c_str(), "%ldx%ldx%ldx%ldx%ld:%ldx%ld%n", &s.videos, &s.frames, &s.channels,
                               &s.height, &s.width, &s.heads, &s.head_dim, &end);
  const bool positive = std::min({s.videos, s.frames, s.channels, s.height, s.width, s.heads, s.head_dim}) > 0;
  if (read == 7 && static_cast<std::size_t>(end) == text.size() && positive) return s;
  std::string known;
  for (const BenchShape& shape : known_shapes()) known += shape.id + " ";
  throw CLI::ValidationError(
      "--shape", "expected one of " + known + "BxFxCxHxW:headsxdim or PRESET@BxFxHxW:tokens, found " + text);
}

ModelConfig config_of(const BenchShape& s) {
  if (!s.preset.empty()) return preset_named(s.preset)->config;
  TransformerTemporalConfig config;
  config.num_attention_heads = s.heads;
  config.attention_head_dim = s.head_dim;
  config.in_channels = s.channels;
  config.norm_num_groups = s.channels % 32 == 0 ? 32 : 1;
  if (s.positions != 0) {
    config.positional_embeddings = PositionalEmbeddings::sinusoidal;
    config.num_positional_embeddings = s.positions;
  }
  return config;
}

double forward_flops(const BenchShape& s) {
  if (!s.preset.empty()) return spatial_flops(s);
  const double inner = static_cast<double>(s.heads * s.head_dim);
  const double tokens = static_cast<double>(s.videos * s.frames * s.height * s.width);
  return (40.0 * inner * inner + 4.0 * static_cast<double>(s.channels) * inner +
          8.0 * static_cast<double>(s.frames) * inner) *
         tokens;
}

void print_shapes(const std::vector<BenchShape>& shapes, bool json) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  if (!json) std::cout << "shape     videos  frames  channels  height  width  heads x dim  positions    GFLOP\n";
  for (const BenchShape& s : shapes) {
    all.push_back({{"shape", s.id},
                   {"videos", s.videos},
                   {"frames", s.frames},
                   {"channels", s.channels},
                   {"height", s.height},
                   {"width", s.width},
                   {"heads", s.heads},
                   {"head_dim", s.head_dim},
                   {"positions", s.positions},
                   {"flops", forward_flops(s)}});
    if (json) continue;
    char line[160];
    std::snprintf(line, sizeof line, "%-9s %6ld  %6ld  %8ld  %6ld  %5ld  %11s  %9ld  %7.1f\n", s.id.c_str(), s.videos,
                  s.frames, s.channels, s.height, s.width,
                  (std::to_string(s.heads) + " x " + std::to_string(s.head_dim)).c_str(), s.positions,
                  forward_flops(s) / 1e9);
    std::cout << line;
  }
  if (json) std::cout << all.dump(2) << '\n';
}

}  // namespace kineograph::cli

#include "bench_shapes.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

namespace kineograph::cli {

const std::vector<BenchShape>& known_shapes() {
  static const std::vector<BenchShape> shapes = {
      {"AD-0", 2, 16, 320, 64, 64, 8, 40, 32},    {"AD-1", 2, 16, 640, 32, 32, 8, 80, 32},
      {"AD-2", 2, 16, 1280, 16, 16, 8, 160, 32},  {"AD-3", 2, 16, 1280, 8, 8, 8, 160, 32},
      {"XL-0", 2, 16, 320, 128, 128, 8, 40, 32},  {"MS-in", 2, 16, 320, 32, 32, 8, 64, 0},
      {"MS-0", 2, 16, 320, 32, 32, 5, 64, 0},     {"ZS-in", 2, 24, 320, 40, 72, 8, 64, 0},
      {"ZS-0", 2, 24, 320, 40, 72, 5, 64, 0},     {"ZS-1", 2, 24, 640, 20, 36, 10, 64, 0},
      {"ZS-2", 2, 24, 1280, 10, 18, 20, 64, 0},   {"ZS-mid", 2, 24, 1280, 5, 9, 20, 64, 0},
      {"I2V-0", 2, 16, 320, 88, 160, 5, 64, 0},   {"GRID", 2, 16, 320, 192, 192, 8, 40, 32},
      {"AD-0s", 1, 16, 320, 64, 64, 8, 40, 32},   {"AD-1s", 1, 16, 640, 32, 32, 8, 80, 32},
      {"AD-2s", 1, 16, 1280, 16, 16, 8, 160, 32}, {"small", 1, 16, 320, 32, 32, 8, 40, 32}};
  return shapes;
}

BenchShape parse_shape(const std::string& text) {
  for (const BenchShape& shape : known_shapes())
    if (shape.id == text) return shape;
  BenchShape s{text, 0, 0, 0, 0, 0, 0, 0, 0};
  int end = 0;
  const int read = std::sscanf(text.c_str(), "%ldx%ldx%ldx%ldx%ld:%ldx%ld%n", &s.videos, &s.frames, &s.channels,
                               &s.height, &s.width, &s.heads, &s.head_dim, &end);
  const bool positive = std::min({s.videos, s.frames, s.channels, s.height, s.width, s.heads, s.head_dim}) > 0;
  if (read == 7 && static_cast<std::size_t>(end) == text.size() && positive) return s;
  std::string known;
  for (const BenchShape& shape : known_shapes()) known += shape.id + " ";
  throw CLI::ValidationError("--shape", "expected one of " + known + "or BxFxCxHxW:headsxdim, found " + text);
}

TransformerTemporalConfig config_of(const BenchShape& s) {
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

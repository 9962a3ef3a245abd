// kineograph bench: how fast the module runs here, and how near the machine's limit that is.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "base/threads.h"
#include "commands.h"
#include "kineograph/kineograph.h"

namespace kineograph::cli {
namespace {

struct BenchShape {
  std::string id;
  std::int64_t videos, frames, channels, height, width, heads, head_dim, positions;
};

// The modules of published models at the sizes they are used at, two videos a call for classifier-free guidance; "s" is
// one without.
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

struct BenchArguments {
  std::vector<std::string> shapes;
  std::string engine = "auto", isa, dtype = "f32";
  int threads = 0, repeats = 5;
  bool backward = false, list = false, json = false;
};

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

/// Numbers of mean 0.2 and spread about 1.5, cheap to make.
Tensor draw(const Shape& shape) {
  Tensor x(DType::f32, shape);
  std::uint64_t state = 1;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    x.data_as<float>()[i] = 0.2f + 5.2f * (static_cast<float>(state >> 40) * 0x1p-24f - 0.5f);
  }
  return x;
}

/// Worst difference from the reference on a few pixels, over the reference's largest value.
double check(const BenchShape& s, const TransformerTemporalModel& model) {
  const auto reference = TransformerTemporalModel::from_config(config_of(s), 1, {.engine = "reference"});
  const Tensor x = draw({s.frames, s.channels, 1, 3});
  const Tensor want = reference.forward(x, {.num_frames = s.frames}).sample;
  const Tensor got = model.forward(x, {.num_frames = s.frames}).sample;
  double error = 0.0, scale = 0.0;
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    scale = std::max(scale, std::fabs(static_cast<double>(want.data_as<float>()[i])));
    error = std::max(
        error, std::fabs(static_cast<double>(want.data_as<float>()[i]) - static_cast<double>(got.data_as<float>()[i])));
  }
  return error / scale;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

nlohmann::ordered_json measure(const BenchShape& s, const BenchArguments& arguments) {
  ModelOptions options;
  options.engine = arguments.engine;
  options.isa = arguments.isa;
  options.compute_dtype = arguments.dtype == "bf16" ? DType::bf16 : DType::f32;
  const auto model = TransformerTemporalModel::from_config(config_of(s), 1, options);
  const double max_error = check(s, model);
  const double allowed = arguments.dtype == "bf16" ? 0.05 : 1e-5;
  if (!(max_error <= allowed))
    throw Error("bench " + s.id, "an answer within " + std::to_string(allowed) + " of the reference",
                std::to_string(max_error));

  const Tensor x = draw({s.videos * s.frames, s.channels, s.height, s.width});
  Tensor y(DType::f32, x.shape());
  const ForwardOptions forward{.num_frames = s.frames, .num_threads = arguments.threads};
  // Gradients by the tokens and by the weights are as much again, each; what backward computes anew is not counted.
  const double flops = forward_flops(s) * (arguments.backward ? 3.0 : 1.0);
  const auto peak = [&] {
    return peak_gflops(model.engine(), std::string(model.isa()), model.compute_dtype(), arguments.threads);
  };
  // Gradients of everything, into the same memory every time.
  Tensor d_x(DType::f32, x.shape());
  std::vector<Tensor> d_parameters;
  Gradients gradients;
  if (arguments.backward) {
    gradients.hidden_states = d_x.mutable_view();
    for (const Parameter& parameter : model.parameters()) {
      if (parameter.name.ends_with(".pe")) continue;
      d_parameters.emplace_back(DType::f32, parameter.value.shape());
      gradients.parameters.push_back({parameter.name, d_parameters.back().mutable_view()});
    }
  }
  const auto step = [&] {
    model.forward(x, y.mutable_view(), forward);
    if (arguments.backward) model.backward(x, y, gradients, forward);
  };
  step();  // warms the workspaces up
  std::vector<double> seconds, peaks, shares;
  double before = peak();
  for (int repeat = 0; repeat < arguments.repeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    step();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    const double after = peak();
    // The clock drifts: each run is held to the peak measured around it.
    peaks.push_back((before + after) / 2);
    shares.push_back(peaks.back() > 0.0 ? flops / seconds.back() / 1e9 / peaks.back() : 0.0);
    before = after;
  }
  return {{"shape", s.id},
          {"engine", model.engine()},
          {"isa", model.isa()},
          {"dtype", arguments.dtype},
          {"pass", arguments.backward ? "forward and backward" : "forward"},
          {"threads", arguments.threads},
          {"seconds_median", median(seconds)},
          {"gflops", flops / median(seconds) / 1e9},
          {"peak_gflops", median(peaks)},
          {"peak_share", median(shares)},
          {"max_error", max_error},
          {"workspace_bytes", model.workspace_bytes(x, forward)}};
}

/// What the shapes are, for people and for the scripts of bench/.
void list(const std::vector<BenchShape>& shapes, bool json) {
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

void bench(const BenchArguments& arguments) {
  std::vector<BenchShape> shapes;
  for (const std::string& text : arguments.shapes) shapes.push_back(parse_shape(text));
  if (arguments.list) return list(shapes.empty() ? known_shapes() : shapes, arguments.json);
  if (shapes.empty()) shapes.push_back(parse_shape("AD-0s"));
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  if (!arguments.json)
    std::cout
        << "shape     engine     isa           dtype   seconds   GFLOP/s      peak   share   max error  workspace\n";
  for (const BenchShape& shape : shapes) {
    const auto row = measure(shape, arguments);
    all.push_back(row);
    if (arguments.json) continue;
    char line[160];
    std::snprintf(line, sizeof line, "%-9s %-10s %-13s %-5s %9.4f %9.1f %9.1f  %5.1f%%   %.1e  %6.1f MB\n",
                  shape.id.c_str(), row["engine"].get<std::string>().c_str(), row["isa"].get<std::string>().c_str(),
                  arguments.dtype.c_str(), row["seconds_median"].get<double>(), row["gflops"].get<double>(),
                  row["peak_gflops"].get<double>(), 100.0 * row["peak_share"].get<double>(),
                  row["max_error"].get<double>(), row["workspace_bytes"].get<double>() / 1e6);
    std::cout << line << std::flush;
  }
  if (arguments.json) std::cout << all.dump(2) << '\n';
}

}  // namespace

void add_bench(CLI::App& program) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command = program.add_subcommand("bench", "Measure a module on this machine, beside its FMA peak");
  command
      ->add_option("--shape", arguments->shapes,
                   "AD-0, ZS-1, ..., or BxFxCxHxW:headsxdim; several with commas (default: AD-0s)")
      ->delimiter(',');
  command->add_option("--engine", arguments->engine, "Engine")->capture_default_str();
  command->add_option("--isa", arguments->isa, "Instruction set to force (see --version)");
  command->add_option("--dtype", arguments->dtype, "What matrix products take")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads; 0 for KINEOGRAPH_NUM_THREADS or all cores")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  command->add_flag("--backward", arguments->backward,
                    "A forward and a backward, as in training, instead of a forward");
  command->add_option("--repeats", arguments->repeats, "Timed runs")->check(CLI::Range(1, 1000))->capture_default_str();
  command->add_flag("--list", arguments->list, "Say what the shapes are, all or those of --shape, and measure nothing");
  command->add_flag("--json", arguments->json, "Write JSON");
  command->footer("Example:\n  kineograph bench --shape AD-0s,AD-2s --dtype f32");
  command->callback([arguments] {
    arguments->threads = thread_count(arguments->threads);
    bench(*arguments);
  });
}

}  // namespace kineograph::cli

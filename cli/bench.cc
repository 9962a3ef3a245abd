// kineograph bench: how fast the module runs here, and how near the machine's limit that is.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "any_model.h"
#include "base/threads.h"
#include "bench_shapes.h"
#include "commands.h"
#include "kineograph/kineograph.h"
#include "options.h"

namespace kineograph::cli {
namespace {

struct BenchArguments {
  std::vector<std::string> shapes;
  EngineArguments engine{.dtype = "f32"};
  int repeats = 5;
  bool backward = false, list = false, json = false;
};

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

/// A text for every video of a spatial shape; none for a temporal one.
Tensor text_of(const BenchShape& s, std::int64_t videos) {
  if (s.preset.empty()) return {};
  return draw({videos, s.tokens, *common(config_of(s)).cross_attention_dim});
}

TensorView view_of(const Tensor& tensor) { return tensor ? tensor.view() : TensorView(); }

/// Worst difference from the reference on a few pixels, over the reference's largest value.
double check(const BenchShape& s, const AnyModel& model) {
  const AnyModel reference = seeded(config_of(s), 1, {.engine = "reference"}, DType::f32);
  const Tensor x = draw({s.frames, s.channels, 1, 3}), text = text_of(s, 1);
  const ForwardOptions options{.num_frames = s.frames, .encoder_hidden_states = view_of(text)};
  const Tensor want = forward(reference, x, options), got = forward(model, x, options);
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

/// One module and its arguments, timed.
class Measurement {
 public:
  Measurement(const BenchShape& shape, const BenchArguments& arguments)
      : shape_(shape),
        arguments_(arguments),
        model_(seeded(config_of(shape), 1, arguments.engine.model_options(), DType::f32)),
        text_(text_of(shape, shape.videos)),
        forward_{.num_frames = shape.frames,
                 .encoder_hidden_states = view_of(text_),
                 .num_threads = arguments.engine.threads},
        x_(draw({shape.videos * shape.frames, shape.channels, shape.height, shape.width})),
        y_(DType::f32, x_.shape()) {
    if (arguments.backward) want_all_gradients();
  }

  nlohmann::ordered_json run() {
    const double max_error = checked_error();
    // Gradients by the tokens and by the weights are as much again, each; what backward computes anew is not counted.
    const double flops = forward_flops(shape_) * (arguments_.backward ? 3.0 : 1.0);
    step();  // warms the workspaces up
    std::vector<double> seconds, peaks, shares;
    double before = peak();
    for (int repeat = 0; repeat < arguments_.repeats; ++repeat) {
      const auto start = std::chrono::steady_clock::now();
      step();
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      const double after = peak();
      // The clock drifts: each run is held to the peak measured around it.
      peaks.push_back((before + after) / 2);
      shares.push_back(peaks.back() > 0.0 ? flops / seconds.back() / 1e9 / peaks.back() : 0.0);
      before = after;
    }
    return {{"shape", shape_.id},
            {"engine", mixin(model_).engine()},
            {"isa", mixin(model_).isa()},
            {"dtype", name_of(mixin(model_).compute_dtype())},
            {"pass", arguments_.backward ? "forward and backward" : "forward"},
            {"threads", arguments_.engine.threads},
            {"seconds_median", median(seconds)},
            {"gflops", flops / median(seconds) / 1e9},
            {"peak_gflops", median(peaks)},
            {"peak_share", median(shares)},
            {"max_error", max_error},
            {"workspace_bytes", workspace_bytes(model_, x_, forward_)}};
  }

 private:
  void want_all_gradients() {
    d_x_ = Tensor(DType::f32, x_.shape());
    gradients_.hidden_states = d_x_.mutable_view();
    for (const Parameter& parameter : mixin(model_).parameters()) {
      if (parameter.name.ends_with(".pe")) continue;
      d_parameters_.emplace_back(DType::f32, parameter.value.shape());
      gradients_.parameters.push_back({parameter.name, d_parameters_.back().mutable_view()});
    }
  }

  /// The worst error; throws Error where it is larger than the arithmetic explains.
  double checked_error() const {
    const double max_error = check(shape_, model_);
    const double allowed = mixin(model_).compute_dtype() == DType::f32 ? 1e-5 : 0.05;
    if (!(max_error <= allowed))
      throw Error("bench " + shape_.id, "an answer within " + std::to_string(allowed) + " of the reference",
                  std::to_string(max_error));
    return max_error;
  }

  void step() {
    forward_into(model_, x_, y_.mutable_view(), forward_);
    if (arguments_.backward) std::get<TransformerTemporalModel>(model_).backward(x_, y_, gradients_, forward_);
  }

  double peak() const {
    const ModelMixin& model = mixin(model_);
    return peak_gflops(model.engine(), std::string(model.isa()), model.compute_dtype(), arguments_.engine.threads);
  }

  const BenchShape& shape_;
  const BenchArguments& arguments_;
  AnyModel model_;
  Tensor text_;
  ForwardOptions forward_;
  Tensor x_, y_, d_x_;
  std::vector<Tensor> d_parameters_;  // the same memory for every step
  Gradients gradients_;
};

void bench(const BenchArguments& arguments) {
  std::vector<BenchShape> shapes;
  for (const std::string& text : arguments.shapes) shapes.push_back(parse_shape(text));
  for (const BenchShape& shape : shapes)
    if (arguments.backward && !shape.preset.empty())
      throw CLI::ValidationError("--backward", "expected shapes of temporal modules with it, found " + shape.id);
  if (arguments.list) return print_shapes(shapes.empty() ? known_shapes() : shapes, arguments.json);
  if (shapes.empty()) shapes.push_back(parse_shape("AD-0s"));
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  if (!arguments.json)
    std::cout
        << "shape     engine     isa           dtype   seconds   GFLOP/s      peak   share   max error  workspace\n";
  for (const BenchShape& shape : shapes) {
    const auto row = Measurement(shape, arguments).run();
    all.push_back(row);
    if (arguments.json) continue;
    char line[160];
    std::snprintf(line, sizeof line, "%-9s %-10s %-13s %-5s %9.4f %9.1f %9.1f  %5.1f%%   %.1e  %6.1f MB\n",
                  shape.id.c_str(), row["engine"].get<std::string>().c_str(), row["isa"].get<std::string>().c_str(),
                  row["dtype"].get<std::string>().c_str(), row["seconds_median"].get<double>(),
                  row["gflops"].get<double>(), row["peak_gflops"].get<double>(),
                  100.0 * row["peak_share"].get<double>(), row["max_error"].get<double>(),
                  row["workspace_bytes"].get<double>() / 1e6);
    std::cout << line << std::flush;
  }
  if (arguments.json) std::cout << all.dump(2) << '\n';
}

}  // namespace

void add_bench(CLI::App& program) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command = program.add_subcommand("bench", "Measure a module on this machine, beside its FMA peak");
  command
      ->add_option(
          "--shape", arguments->shapes,
          "AD-0, SD-0, SVD-0, ..., BxFxCxHxW:headsxdim, or PRESET@BxFxHxW:tokens (svd/320@2x14x32x32:1); several with "
          "commas (default: AD-0s)")
      ->type_name("SHAPE,...")
      ->delimiter(',');
  add_engine_options(*command, arguments->engine);
  command->add_flag("--backward", arguments->backward,
                    "A forward and a backward, as in training, instead of a forward");
  add_whole_number(*command, "--repeats", arguments->repeats, 1, 1000, "Timed runs")->capture_default_str();
  command->add_flag("--list", arguments->list, "Say what the shapes are, all or those of --shape, and measure nothing");
  command->add_flag("--json", arguments->json, "Write JSON");
  command->footer("Example:\n  kineograph bench --shape 1x8x64x8x8:4x16 --repeats 2");
  command->callback([arguments] {
    arguments->engine.threads = thread_count(arguments->engine.threads);
    bench(*arguments);
  });
}

}  // namespace kineograph::cli

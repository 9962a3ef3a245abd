// Hashes the outputs and gradients of random configurations, a line each, for every engine and instruction set of this
// machine in f32 and bf16. Two builds whose lines are equal give equal bits: see CONTRIBUTING.md.
//
//   answers [CASES [ISA]]     default: 300 random cases, every instruction set
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kineograph/kineograph.h"
#include "random_gradient.h"

namespace kineograph::testing {
namespace {

/// FNV-1a of 64 bits.
class Hash {
 public:
  void add(const Tensor& tensor) {
    const auto* bytes = static_cast<const unsigned char*>(tensor.data());
    for (std::size_t i = 0; i < tensor.bytes(); ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001b3;
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325;
};

std::uint64_t hash_of(const Tensor& tensor) {
  Hash hash;
  hash.add(tensor);
  return hash.value();
}

/// One way to run a case.
struct Way {
  const engine::Engine* engine;
  std::string isa;
  DType dtype;
  std::string name() const { return std::string(engine->name()) + " " + isa + " " + std::string(name_of(dtype)); }
};

void print(const std::string& what, const Way& way, const char* pass, std::uint64_t hash) {
  std::printf("%s %s %s %016" PRIx64 "\n", what.c_str(), way.name().c_str(), pass, hash);
}

/// A forward, with a processor for every attention where `processed`.
std::uint64_t forward_hash(const RandomCase& c, const Way& way, int threads, bool in_place, bool processed) {
  if (!processed) return hash_of(c.run(*way.engine, way.dtype, way.isa, threads, in_place));
  const auto plan = way.engine->prepare(c.config, c.weights, {way.dtype, way.isa});
  DefaultAttentionProcessor attend;
  const CrossAttentionKwargs kwargs;
  engine::Inputs inputs = c.inputs;
  inputs.num_threads = threads;
  inputs.cross_attention_kwargs = &kwargs;
  inputs.processors.assign(static_cast<std::size_t>(2 * c.config.num_layers), &attend);
  Tensor output = c.make_output();
  plan->forward(inputs, output.mutable_view());
  return hash_of(output);
}

void random_case(std::uint64_t seed, const Way& way) {
  RandomCase c(seed);
  const std::string what = "case " + std::to_string(seed);
  const int threads = 1 + static_cast<int>(seed % 3);
  print(what, way, "forward", forward_hash(c, way, threads, seed % 5 == 0, seed % 4 == 1));
  make_trained(c, seed);
  if (c.inputs.training_seed) print(what, way, "dropout", forward_hash(c, way, threads, false, false));
  const auto plan = way.engine->prepare(c.config, c.weights, {way.dtype, way.isa});
  Hash gradients;
  for (const Named& named : gradients_of(c, *plan, seed, threads)) gradients.add(named.value);
  print(what, way, "backward", gradients.value());
}

/// A published shape: several chunks of hidden columns, many blocks of rows, whole vectors of pixels.
struct WideCase {
  const char* name;
  std::int64_t heads, head_dim, channels, frames, height, width, context_tokens;
  Activation activation;
  DType image;
};

constexpr WideCase kWideCases[] = {
    {"wide 8x40", 8, 40, 320, 16, 8, 9, 0, Activation::geglu, DType::f32},
    {"wide 8x40 bf16", 8, 40, 320, 16, 8, 16, 0, Activation::geglu, DType::bf16},
    {"wide 5x64 conditioned", 5, 64, 320, 7, 5, 7, 77, Activation::gelu, DType::f32},
    {"wide 3x45 f16", 3, 45, 135, 5, 6, 32, 0, Activation::swiglu, DType::f16},
};

Tensor drawn(std::uint64_t seed, const Shape& shape, DType dtype) {
  std::mt19937_64 random(seed);
  Tensor values(DType::f32, shape);
  for (std::int64_t i = 0; i < values.numel(); ++i)
    values.data_as<float>()[i] = static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-52 - 1.0);
  return convert(values, dtype);
}

void wide_case(const WideCase& wide, const Way& way) {
  TransformerTemporalConfig config;
  config.num_attention_heads = wide.heads;
  config.attention_head_dim = wide.head_dim;
  config.in_channels = wide.channels;
  config.norm_num_groups = 5;
  config.activation_fn = wide.activation;
  if (wide.context_tokens != 0) {
    config.double_self_attention = false;
    config.cross_attention_dim = 96;
  }
  ModelOptions options;
  options.engine = way.engine->name();
  options.isa = way.isa;
  options.compute_dtype = way.dtype;
  const auto model = TransformerTemporalModel::from_config(config, 3, options);
  const Tensor x = drawn(1, {2 * wide.frames, wide.channels, wide.height, wide.width}, wide.image);
  ForwardOptions arguments;
  arguments.num_frames = wide.frames;
  arguments.num_threads = 2;
  Tensor encoder;
  if (wide.context_tokens != 0) {
    encoder = drawn(2, {2, wide.context_tokens, 96}, DType::f32);
    arguments.encoder_hidden_states = encoder;
  }
  print(wide.name, way, "forward", hash_of(model.forward(x, arguments).sample));
  std::vector<Tensor> found;
  Gradients wanted;
  found.emplace_back(x.dtype(), x.shape());
  wanted.hidden_states = found.back().mutable_view();
  for (const Parameter& parameter : model.parameters()) {
    found.emplace_back(DType::f32, parameter.value.shape());
    wanted.parameters.push_back({parameter.name, found.back().mutable_view()});
  }
  model.backward(x, drawn(3, x.shape(), wide.image), wanted, arguments);
  Hash gradients;
  for (const Tensor& tensor : found) gradients.add(tensor);
  print(wide.name, way, "backward", gradients.value());
}

void run(std::uint64_t cases, const std::string& isa) {
  std::vector<Way> ways;
  if (isa.empty()) ways.push_back({&engine::reference_engine(), "", DType::f32});
  for (const std::string& name : engine::cpu_engine()->instruction_sets())
    for (const DType dtype : {DType::f32, DType::bf16})
      if (isa.empty() || name == isa) ways.push_back({engine::cpu_engine(), name, dtype});
  for (const Way& way : ways) {
    for (std::uint64_t seed = 0; seed < cases; ++seed) random_case(seed, way);
    if (way.engine == engine::cpu_engine())
      for (const WideCase& wide : kWideCases) wide_case(wide, way);
  }
}

}  // namespace
}  // namespace kineograph::testing

int main(int argc, char** argv) {
  kineograph::testing::run(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 300, argc > 2 ? argv[2] : "");
}

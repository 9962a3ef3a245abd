// The input chooses a configuration and a call. Every engine's answer, on each instruction set of this processor, is
// the reference's to rounding and the same bits for any number of threads, as are the fused engine's gradients; the
// reference adds up those of each thread by itself. Where the fused engine is not built, the reference runs alone.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "random_gradient.h"

namespace {

using namespace kineograph;
using namespace kineograph::testing;

void refuse_unless(bool right, const RandomCase& c, const std::string& isa, DType dtype, const std::string& problem) {
  if (right) return;
  std::fprintf(stderr, "%s %s: %s\n%s\n", isa.c_str(), std::string(name_of(dtype)).c_str(), problem.c_str(),
               c.describe().c_str());
  __builtin_trap();
}

bool same(const Tensor& a, const Tensor& b) { return std::memcmp(a.data(), b.data(), a.bytes()) == 0; }

/// Multiply-adds of the products, roughly: the reference does a few million a second with sanitizers.
double work_of(const RandomCase& c) {
  const auto width = static_cast<double>(c.config.inner_dim());
  const auto tokens = static_cast<double>(c.inputs.num_videos * c.inputs.num_frames * c.inputs.height * c.inputs.width);
  return 20.0 * tokens * width * width * static_cast<double>(c.config.num_layers + 1);
}

/// Holds an engine to `want`, the reference's output, and to itself. `seed` is of the dropout and of the gradient.
void check(const RandomCase& c, const engine::Engine& engine, DType dtype, const std::string& isa, const Tensor& want,
           std::uint64_t seed) {
  const int threads = 2 + static_cast<int>(seed % 3);
  const Tensor got = c.run(engine, dtype, isa, 1);
  const std::string problem = disagreement(c, dtype, want, got);
  refuse_unless(problem.empty(), c, isa, dtype, problem);
  refuse_unless(same(got, c.run(engine, dtype, isa, threads, true)), c, isa, dtype, "other bits with more threads");
  if (!c.inputs.context.empty()) return;  // windows have no gradients
  const auto plan = engine.prepare(c.config, c.weights, {dtype, isa});
  const std::vector<Named> more = gradients_of(c, *plan, seed, threads);
  if (&engine == &engine::reference_engine()) return;
  const std::vector<Named> one = gradients_of(c, *plan, seed, 1);
  for (std::size_t i = 0; i < one.size(); ++i)
    refuse_unless(same(one[i].value, more[i].value), c, isa, dtype, one[i].name + ": other bits with more threads");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kChoices = 64;  // more than any case has
  RandomCase c(std::span(data, std::min(size, kChoices)));
  c.draw_context();
  // LayerNorm of two or three channels is nearly a sign: any rounding may turn it. A case is small, so that many run.
  constexpr double kEnough = 4e6;
  if (c.config.inner_dim() < 4 || work_of(c) > kEnough) return -1;
  const Tensor want = c.run(engine::reference_engine(), DType::f32, "", 1);
  check(c, engine::reference_engine(), DType::f32, "", want, size);
  if (const engine::Engine* const cpu = engine::cpu_engine())
    for (const std::string& isa : cpu->instruction_sets())
      for (const DType dtype : {DType::f32, DType::bf16}) check(c, *cpu, dtype, isa, want, size);
  return 0;
}

// The input chooses a configuration and a call; the fused engine's answer, on each instruction set of this processor,
// is the reference's to rounding, and the same bits for any number of threads.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "random_case.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  using namespace kineograph::testing;
  constexpr std::size_t kChoices = 64;  // more than any case has
  RandomCase c(std::span(data, std::min(size, kChoices)));
  c.draw_context();
  // LayerNorm of two or three channels is nearly a sign: any rounding may turn it.
  if (c.config.inner_dim() < 4) return 0;
  const Tensor want = c.run(engine::reference_engine(), DType::f32, "", 1);
  const int threads = 2 + static_cast<int>(size % 3);
  for (const std::string& isa : engine::cpu_engine()->instruction_sets())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor got = c.run(*engine::cpu_engine(), dtype, isa, 1);
      const Tensor again = c.run(*engine::cpu_engine(), dtype, isa, threads, true);
      const std::string problem = disagreement(c, dtype, want, got);
      if (problem.empty() && std::memcmp(got.data(), again.data(), got.bytes()) == 0) continue;
      std::fprintf(stderr, "%s %s: %s\n%s\n", isa.c_str(), std::string(name_of(dtype)).c_str(),
                   problem.empty() ? "other bits with more threads" : problem.c_str(), c.describe().c_str());
      __builtin_trap();
    }
  return 0;
}

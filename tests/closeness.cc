#include "closeness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "agreement.h"

namespace kineograph::testing {

ModelOptions Runner::options() const {
  ModelOptions options;
  options.engine = engine;
  options.isa = isa;
  options.compute_dtype = compute;
  return options;
}

std::string Runner::name() const { return engine + " " + isa + " " + std::string(name_of(compute)); }

std::vector<std::string> host_engines() {
  std::vector<std::string> names = engines();
  std::erase(names, "cuda");
  return names;
}

std::vector<Runner> runners() {
  std::vector<Runner> all{{"reference", "portable", DType::f32}};
  for (const std::string& engine : host_engines())
    for (const std::string& isa : engine == "reference" ? std::vector<std::string>{} : instruction_sets(engine))
      for (const DType compute : {DType::f32, DType::bf16}) all.push_back({engine, isa, compute});
  return all;
}

/// The reference differs by the f32 rounding of both ends, and by the f32 sinusoid of a timestep up to 1000, whose
/// angle is off by up to 1000 epsilon where exp rounds the other way; the fused engine by the rounding of every stage's
/// GEMM inputs on a branch as large as the output's, with a factor for the goldens' peaked softmax (their queries and
/// keys are three times larger than usual).
double tolerance(const TransformerConfig& config, const Runner& runner, DType image, double scale) {
  const bool conditioned = config.norm_type == NormType::ada_norm_zero;
  const double exact = 4.0 * 0x1p-23 * scale + (conditioned ? 1000.0 * 0x1p-24 * scale : 0.0);
  const double stored = image == DType::bf16 ? 0x1p-8 * scale : image == DType::f16 ? 0x1p-11 * scale : 0.0;
  if (runner.engine == "reference") return exact + stored;
  const double stages = 4.0 + 5.0 * static_cast<double>(config.num_layers);
  return exact + stored + 8.0 * stages * unit_roundoff(runner.compute) * scale;
}

void expect_close(const Tensor& got, TensorView want, const TransformerConfig& config, const Runner& runner,
                  DType image) {
  const Tensor a = convert(got, DType::f64), b = convert(want, DType::f64);
  ASSERT_EQ(a.shape(), b.shape());
  double scale = 0.0, error = 0.0;
  std::int64_t worst = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    scale = std::max(scale, std::fabs(b.data_as<double>()[i]));
    const double off = std::fabs(a.data_as<double>()[i] - b.data_as<double>()[i]);
    if (!(off <= error)) error = off, worst = i;
  }
  EXPECT_LE(error, tolerance(config, runner, image, scale))
      << runner.name() << ", element " << worst << " of " << to_string(a.shape()) << ": got "
      << a.data_as<double>()[worst] << ", want " << b.data_as<double>()[worst];
}

}  // namespace kineograph::testing

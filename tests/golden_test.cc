// Every engine against what diffusers computes (tests/goldens).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "golden_cases.h"

namespace kineograph::testing {
namespace {

struct Runner {
  std::string engine, isa;
  DType compute;
};

std::vector<Runner> runners() {
  std::vector<Runner> all{{"reference", "portable", DType::f32}};
  for (const std::string& engine : engines())
    for (const std::string& isa : engine == "reference" ? std::vector<std::string>{} : instruction_sets(engine))
      for (const DType compute : {DType::f32, DType::bf16}) all.push_back({engine, isa, compute});
  return all;
}

/// The sample is an f64 run rounded to f32. The reference differs by the f32 rounding of both ends, and by the f32
/// sinusoid of a timestep up to 1000, whose angle is off by up to 1000 epsilon where exp rounds the other way; the
/// fused engine by the rounding of every stage's GEMM inputs on a branch as large as the output's, with a factor for
/// the goldens' peaked softmax (their queries and keys are three times larger than usual).
double tolerance(const Golden& golden, const Runner& runner, double scale) {
  const bool conditioned = golden.config.norm_type == NormType::ada_norm_zero;
  const double exact = 4.0 * 0x1p-23 * scale + (conditioned ? 1000.0 * 0x1p-24 * scale : 0.0);
  const DType image = golden.hidden_states().dtype();
  const double stored = image == DType::bf16 ? 0x1p-8 * scale : image == DType::f16 ? 0x1p-11 * scale : 0.0;
  if (runner.engine == "reference") return exact + stored;
  const double stages = 4.0 + 5.0 * static_cast<double>(golden.config.num_layers);
  return exact + stored + 8.0 * stages * (runner.compute == DType::bf16 ? 0x1p-8 : 0x1p-23) * scale;
}

void expect_close(const Tensor& got, TensorView want, double (*allowed)(const Golden&, const Runner&, double),
                  const Golden& golden, const Runner& runner) {
  const Tensor a = convert(got, DType::f64), b = convert(want, DType::f64);
  ASSERT_EQ(a.shape(), b.shape());
  double scale = 0.0, error = 0.0;
  std::int64_t worst = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    scale = std::max(scale, std::fabs(b.data_as<double>()[i]));
    const double off = std::fabs(a.data_as<double>()[i] - b.data_as<double>()[i]);
    if (!(off <= error)) error = off, worst = i;
  }
  EXPECT_LE(error, allowed(golden, runner, scale))
      << golden.name << " element " << worst << " of " << to_string(a.shape()) << ": got " << a.data_as<double>()[worst]
      << ", want " << b.data_as<double>()[worst];
}

class GoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, EveryEngineAgreesWithDiffusers) {
  const Golden golden = load_golden(golden_folder() / (GetParam() + ".safetensors"));
  for (const Runner& runner : runners()) {
    ModelOptions options;
    options.engine = runner.engine;
    options.isa = runner.isa;
    options.compute_dtype = runner.compute;
    const TransformerTemporalModel model = golden.model(options);
    EXPECT_EQ(model.isa(), runner.isa);
    SCOPED_TRACE(runner.engine + " " + runner.isa + " " + std::string(name_of(runner.compute)));
    expect_close(model.forward(golden.hidden_states(), golden.arguments()).sample, golden.sample(), tolerance, golden,
                 runner);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

class SavedTest : public ::testing::TestWithParam<std::string> {};

std::vector<std::string> saved_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder() / "saved"))
    names.push_back(entry.path().filename());
  return names;
}

std::string variant_of(const std::string& name) { return name.find("variant") == std::string::npos ? "" : "fp16"; }

TEST_P(SavedTest, AFolderThatDiffusersSavedLoadsRunsAndSavesAgainBitForBit) {
  const auto folder = golden_folder() / "saved" / GetParam();
  ModelOptions options;
  options.engine = "reference";
  options.variant = variant_of(GetParam());
  const auto model = TransformerTemporalModel::from_pretrained(folder, options);
  const Golden golden = load_golden(folder / "expected.safetensors");
  expect_close(model.forward(golden.hidden_states(), golden.arguments()).sample, golden.sample(), tolerance, golden,
               {"reference", "portable", DType::f32});

  const auto again = std::filesystem::path(::testing::TempDir()) / ("saved_" + GetParam());
  model.save_pretrained(again);
  options.variant.clear();
  const auto copy = TransformerTemporalModel::from_pretrained(again, options);
  ASSERT_EQ(copy.parameters().size(), model.parameters().size());
  for (std::size_t i = 0; i < model.parameters().size(); ++i) {
    const Parameter &a = model.parameters()[i], &b = copy.parameters()[i];
    ASSERT_EQ(a.name, b.name);
    ASSERT_EQ(a.value.dtype(), b.value.dtype());
    ASSERT_EQ(std::memcmp(a.value.data(), b.value.data(),
                          static_cast<std::size_t>(a.value.numel()) * size_of(a.value.dtype())),
              0);
  }
  std::filesystem::remove_all(again);
}

INSTANTIATE_TEST_SUITE_P(All, SavedTest, ::testing::ValuesIn(saved_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kineograph::testing

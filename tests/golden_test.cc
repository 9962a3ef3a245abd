// Every engine against what diffusers computes (tests/goldens).
#include <gtest/gtest.h>

#include <cstring>

#include "closeness.h"
#include "golden_cases.h"

namespace kineograph::testing {
namespace {

class GoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, EveryEngineAgreesWithDiffusers) {
  const Golden golden = load_golden(golden_folder() / (GetParam() + ".safetensors"));
  for (const Runner& runner : runners()) {
    const TransformerTemporalModel model = golden.model(runner.options());
    EXPECT_EQ(model.isa(), runner.isa);
    SCOPED_TRACE(golden.name);
    expect_close(model.forward(golden.hidden_states(), golden.arguments()).sample, golden.sample(), golden.config,
                 runner, golden.hidden_states().dtype());
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
  expect_close(model.forward(golden.hidden_states(), golden.arguments()).sample, golden.sample(), golden.config,
               {"reference", "portable", DType::f32}, golden.hidden_states().dtype());

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

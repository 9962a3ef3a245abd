// Longer position tables: of a model that is opened with more rows, and of one that was converted first.
#include "kineograph/positions.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "calls.h"
#include "draws.h"
#include "folder.h"
#include "kineograph/kineograph.h"
#include "model/positions.h"
#include "noise.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;
using testing::same;

TransformerTemporalConfig config_with(std::int64_t positions) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.in_channels = 8;
  config.norm_num_groups = 4;
  config.num_layers = 2;
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = positions;
  return config;
}

class Positions : public InFolder<::testing::TestWithParam<PositionExtension>> {
 protected:
  /// A model of 6 positions in the folder `name`; `trained` has a table of its own in every layer.
  void save(const std::string& name, bool trained, DType dtype) const {
    const auto config = config_with(6);
    const auto seeded = TransformerTemporalModel::from_config(config, 3, {}, dtype);
    std::vector<Parameter> parameters = seeded.parameters();
    std::vector<Tensor> tables;
    tables.reserve(parameters.size());
    for (Parameter& parameter : parameters)
      if (trained && parameter.name.ends_with(".pos_embed.pe")) {
        tables.push_back(convert(noise(parameter.value.shape(), static_cast<unsigned>(tables.size())), dtype));
        parameter.value = tables.back();
      }
    TransformerTemporalModel::from_state_dict(config, parameters, nullptr).save_pretrained(folder_ / name);
  }
};

TEST_P(Positions, AreTheSameWhetherTheFileOrTheModelHasMore) {
  for (const bool trained : {false, true})
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (const std::int64_t rows : {6, 7, 12, 31}) {
        SCOPED_TRACE(std::to_string(rows) + " rows, " + std::string(name_of(dtype)) + (trained ? ", trained" : ""));
        save("module", trained, dtype);
        convert(Checkpoint::open(folder_ / "module"), folder_ / "longer",
                {.to = Layout::module, .num_positional_embeddings = rows, .position_extension = GetParam()});
        const auto converted = TransformerTemporalModel::from_pretrained(folder_ / "longer");
        ModelOptions options;
        options.num_positional_embeddings = rows;
        options.position_extension = GetParam();
        const auto opened = TransformerTemporalModel::from_pretrained(folder_ / "module", options);
        EXPECT_EQ(*opened.config().num_positional_embeddings, rows);
        const std::vector<Parameter> want = converted.parameters(), got = opened.parameters();
        ASSERT_EQ(want.size(), got.size());
        for (std::size_t i = 0; i < want.size(); ++i) {
          ASSERT_EQ(want[i].value.shape(), got[i].value.shape()) << want[i].name;
          ASSERT_EQ(want[i].value.dtype(), got[i].value.dtype()) << want[i].name;
          const Tensor a = convert(want[i].value, DType::f64), b = convert(got[i].value, DType::f64);
          EXPECT_TRUE(same(a, b)) << want[i].name;
        }
        const Tensor x = noise({rows, 8, 2, 2}, 9);
        const Tensor a = converted.forward(x, {.num_frames = rows}).sample;
        const Tensor b = opened.forward(x, {.num_frames = rows}).sample;
        EXPECT_TRUE(same(a, b));
      }
}

TEST_P(Positions, OfASeededModelAreThoseOfTheSavedOne) {
  ModelOptions options;
  options.num_positional_embeddings = 16;
  options.position_extension = GetParam();
  const auto seeded = TransformerTemporalModel::from_config(config_with(6), 3, options);
  save("module", false, DType::f32);
  const auto opened = TransformerTemporalModel::from_pretrained(folder_ / "module", options);
  const Tensor x = noise({16, 8, 2, 2}, 9);
  const Tensor a = seeded.forward(x, {.num_frames = 16}).sample, b = opened.forward(x, {.num_frames = 16}).sample;
  EXPECT_TRUE(same(a, b));
}

TEST_P(Positions, OneModelIsNotTakenForAnotherOfTheSameFile) {
  save("module", true, DType::f32);
  ModelOptions options;
  options.num_positional_embeddings = 12;
  options.position_extension = GetParam();
  ModelOptions other = options;
  other.position_extension =
      GetParam() == PositionExtension::formula ? PositionExtension::interpolate : PositionExtension::formula;
  // Files that have been at rest are shared.
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(1);
  for (const auto& entry : fs::directory_iterator(folder_ / "module")) fs::last_write_time(entry, old);
  const auto one = TransformerTemporalModel::from_pretrained(folder_ / "module", options);
  const auto two = TransformerTemporalModel::from_pretrained(folder_ / "module", other);
  const auto short_one = TransformerTemporalModel::from_pretrained(folder_ / "module");
  const Tensor x = noise({12, 8, 2, 2}, 9);
  const Tensor a = one.forward(x, {.num_frames = 12}).sample, b = two.forward(x, {.num_frames = 12}).sample;
  EXPECT_FALSE(same(a, b));
  EXPECT_THROW(short_one.forward(x, {.num_frames = 12}), ArgumentError);
}

TEST_P(Positions, FewerOrNoneAreRefused) {
  save("module", true, DType::f32);
  ModelOptions options;
  options.num_positional_embeddings = 5;
  options.position_extension = GetParam();
  EXPECT_THROW(TransformerTemporalModel::from_pretrained(folder_ / "module", options), ArgumentError);
  EXPECT_THROW(convert(Checkpoint::open(folder_ / "module"), folder_ / "out",
                       {.to = Layout::module, .num_positional_embeddings = 5, .position_extension = GetParam()}),
               ArgumentError);
  options.num_positional_embeddings = 64;
  TransformerTemporalConfig without = config_with(6);
  without.positional_embeddings = PositionalEmbeddings::none;
  without.num_positional_embeddings.reset();
  EXPECT_THROW(TransformerTemporalModel::from_config(without, 1, options), ArgumentError);
  Transformer2DConfig spatial;
  spatial.num_attention_heads = 2;
  spatial.attention_head_dim = 4;
  spatial.in_channels = 8;
  spatial.norm_num_groups = 4;
  EXPECT_THROW(Transformer2DModel::from_config(spatial, 1, options), ArgumentError);
}

INSTANTIATE_TEST_SUITE_P(All, Positions, ::testing::Values(PositionExtension::formula, PositionExtension::interpolate),
                         [](const auto& one) { return std::string(name_of(one.param)); });

// torch.nn.functional.interpolate(torch.tensor([[[0., 1., 4.]]]), size=n, mode="linear")
TEST(Interpolation, IsTorchs) {
  Tensor table(DType::f32, {1, 3, 1});
  for (int i = 0; i < 3; ++i) table.data_as<float>()[i] = static_cast<float>(i * i);
  const std::vector<std::vector<float>> wanted = {
      {0, 1, 4}, {0, 0.625f, 2.125f, 4}, {0, 0.4f, 1, 2.8f, 4}, {0, 0.25f, 0.75f, 1.75f, 3.25f, 4}};
  for (const std::vector<float>& want : wanted) {
    const auto rows = static_cast<std::int64_t>(want.size());
    const Tensor got = model::extended_positions(table, rows, PositionExtension::interpolate);
    for (std::int64_t i = 0; i < rows; ++i)
      EXPECT_NEAR(got.data_as<float>()[i], want[static_cast<std::size_t>(i)], 1e-6) << rows << " rows, row " << i;
  }
}

}  // namespace
}  // namespace kineograph

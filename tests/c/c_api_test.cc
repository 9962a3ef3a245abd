// kineograph/c.h: the numbers of the C++ API, and codes with texts for bad input.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "kineograph/c.h"
#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

constexpr const char* kConfig =
    R"({"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 8, "norm_num_groups": 2,
        "cross_attention_dim": 6, "double_self_attention": false})";
constexpr std::int64_t kFrames = 3, kChannels = 8, kSide = 4, kTokens = 5, kDim = 6;

kineograph_tensor tensor_of(std::vector<float>& values, std::vector<std::int64_t> shape) {
  kineograph_tensor tensor = {};
  tensor.data = values.data();
  tensor.dtype = KINEOGRAPH_F32;
  tensor.rank = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape);
  return tensor;
}

std::vector<float> drawn(std::int64_t count, int seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>((i * 7919 + static_cast<std::size_t>(seed) * 104729) % 2000) / 1000.0f - 1.0f;
  return values;
}

class CApiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(kineograph_model_from_config(kConfig, 7, KINEOGRAPH_F32, nullptr, &model_), KINEOGRAPH_OK)
        << kineograph_last_error();
    options_.num_frames = kFrames;
    options_.encoder_hidden_states = tensor_of(encoder_, {1, kTokens, kDim});
  }
  void TearDown() override { kineograph_model_free(model_); }

  const TransformerTemporalModel& cpp() {
    if (!cpp_)
      cpp_ = std::make_unique<TransformerTemporalModel>(
          TransformerTemporalModel::from_config(TransformerTemporalConfig::from_json(kConfig), 7));
    return *cpp_;
  }
  ForwardOptions cpp_options() const {
    ForwardOptions options;
    options.num_frames = kFrames;
    options.encoder_hidden_states = TensorView(encoder_.data(), {1, kTokens, kDim});
    return options;
  }
  static Shape shape() { return {kFrames, kChannels, kSide, kSide}; }

  kineograph_model* model_ = nullptr;
  std::unique_ptr<TransformerTemporalModel> cpp_;
  std::vector<float> hidden_ = drawn(kFrames * kChannels * kSide * kSide, 1), sample_ = hidden_,
                     encoder_ = drawn(kTokens * kDim, 2);
  kineograph_tensor in_ = tensor_of(hidden_, {kFrames, kChannels, kSide, kSide}),
                    out_ = tensor_of(sample_, {kFrames, kChannels, kSide, kSide});
  kineograph_forward_options options_ = KINEOGRAPH_FORWARD_OPTIONS_INIT;
};

TEST_F(CApiTest, ForwardGivesTheNumbersOfCpp) {
  ASSERT_EQ(kineograph_model_forward(model_, &in_, &out_, &options_), KINEOGRAPH_OK) << kineograph_last_error();
  const Tensor expected = cpp().forward(TensorView(hidden_.data(), shape()), cpp_options()).sample;
  EXPECT_EQ(std::memcmp(sample_.data(), expected.data(), expected.bytes()), 0);
  std::size_t bytes = 0;
  ASSERT_EQ(kineograph_model_workspace_bytes(model_, &in_, &options_, &bytes), KINEOGRAPH_OK);
  EXPECT_EQ(bytes, cpp().workspace_bytes(TensorView(hidden_.data(), shape()), cpp_options()));
}

TEST_F(CApiTest, StridesAreTheCallers) {
  std::vector<float> wide(2 * hidden_.size());
  for (std::size_t i = 0; i < hidden_.size(); ++i) wide[2 * i] = hidden_[i];
  kineograph_tensor strided = tensor_of(wide, {kFrames, kChannels, kSide, kSide});
  const std::int64_t strides[] = {2 * kChannels * kSide * kSide, 2 * kSide * kSide, 2 * kSide, 2};
  std::copy(std::begin(strides), std::end(strides), strided.strides);
  ASSERT_EQ(kineograph_model_forward(model_, &strided, &out_, &options_), KINEOGRAPH_OK) << kineograph_last_error();
  const Tensor expected = cpp().forward(TensorView(hidden_.data(), shape()), cpp_options()).sample;
  EXPECT_EQ(std::memcmp(sample_.data(), expected.data(), expected.bytes()), 0);
}

TEST_F(CApiTest, BackwardGivesTheNumbersOfCpp) {
  std::vector<float> gradient = drawn(kFrames * kChannels * kSide * kSide, 3), d_hidden(gradient.size()),
                     d_weight(static_cast<std::size_t>(16 * kChannels)), expected_hidden = d_hidden,
                     expected_weight = d_weight;
  kineograph_gradients gradients = KINEOGRAPH_GRADIENTS_INIT;
  gradients.hidden_states = tensor_of(d_hidden, {kFrames, kChannels, kSide, kSide});
  const kineograph_parameter parameter = {"proj_in.weight", tensor_of(d_weight, {16, kChannels})};
  gradients.parameters = &parameter;
  gradients.num_parameters = 1;
  const kineograph_tensor d_sample = tensor_of(gradient, {kFrames, kChannels, kSide, kSide});
  ASSERT_EQ(kineograph_model_backward(model_, &in_, &d_sample, &gradients, &options_), KINEOGRAPH_OK)
      << kineograph_last_error();
  Gradients to;
  to.hidden_states = MutableTensorView(expected_hidden.data(), shape());
  to.parameters.push_back({"proj_in.weight", MutableTensorView(expected_weight.data(), {16, kChannels})});
  cpp().backward(TensorView(hidden_.data(), shape()), TensorView(gradient.data(), shape()), to, cpp_options());
  EXPECT_EQ(d_hidden, expected_hidden);
  EXPECT_EQ(d_weight, expected_weight);
}

/// A caller that watches a call's progress.
struct Watch {
  double last = -1.0, end_at = 2.0;
  static int tell(double done, void* data) {
    auto& self = *static_cast<Watch*>(data);
    EXPECT_GE(done, self.last);
    self.last = done;
    return done >= self.end_at;
  }
};

TEST_F(CApiTest, ProgressIsToldAndEndsACall) {
  Watch watch;
  options_.on_progress = Watch::tell;
  options_.progress_data = &watch;
  ASSERT_EQ(kineograph_model_forward(model_, &in_, &out_, &options_), KINEOGRAPH_OK) << kineograph_last_error();
  EXPECT_EQ(watch.last, 1.0);
  const std::vector<float> whole = sample_;
  for (const double end_at : {0.0, 0.1}) {
    watch = {-1.0, end_at};
    EXPECT_EQ(kineograph_model_forward(model_, &in_, &out_, &options_), KINEOGRAPH_CANCELLED);
    EXPECT_NE(std::string(kineograph_last_error()).find("on_progress"), std::string::npos) << kineograph_last_error();
    EXPECT_LT(watch.last, 1.0);
  }
  // A program of before on_progress hands in a shorter struct.
  watch = {-1.0, 0.0};
  options_.size = offsetof(kineograph_forward_options, on_progress);
  ASSERT_EQ(kineograph_model_forward(model_, &in_, &out_, &options_), KINEOGRAPH_OK) << kineograph_last_error();
  EXPECT_EQ(watch.last, -1.0);
  EXPECT_EQ(sample_, whole);
}

TEST_F(CApiTest, ParametersAreTheStateDict) {
  std::vector<kineograph_parameter> parameters(kineograph_model_num_parameters(model_));
  ASSERT_EQ(parameters.size(), cpp().parameters().size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    ASSERT_EQ(kineograph_model_parameter(model_, i, &parameters[i]), KINEOGRAPH_OK);
    EXPECT_EQ(parameters[i].name, cpp().parameters()[i].name);
  }
  kineograph_parameter beyond = {};
  EXPECT_EQ(kineograph_model_parameter(model_, parameters.size(), &beyond), KINEOGRAPH_ARGUMENT_ERROR);
  kineograph_model* again = nullptr;
  ASSERT_EQ(kineograph_model_from_state_dict(kConfig, parameters.data(), parameters.size(), nullptr, &again),
            KINEOGRAPH_OK)
      << kineograph_last_error();
  std::vector<float> first = sample_;
  ASSERT_EQ(kineograph_model_forward(model_, &in_, &out_, &options_), KINEOGRAPH_OK);
  first = sample_;
  ASSERT_EQ(kineograph_model_forward(again, &in_, &out_, &options_), KINEOGRAPH_OK);
  EXPECT_EQ(first, sample_);
  kineograph_model_free(again);
}

TEST_F(CApiTest, SavesAndOpens) {
  const auto folder = std::filesystem::temp_directory_path() / ("kineograph_c_" + std::to_string(::getpid()));
  ASSERT_EQ(kineograph_model_save(model_, folder.c_str()), KINEOGRAPH_OK) << kineograph_last_error();
  kineograph_model* opened = nullptr;
  ASSERT_EQ(kineograph_model_open(folder.c_str(), nullptr, nullptr, &opened), KINEOGRAPH_OK) << kineograph_last_error();
  EXPECT_STREQ(kineograph_model_config(opened), kineograph_model_config(model_));
  kineograph_model_options reference = KINEOGRAPH_MODEL_OPTIONS_INIT;
  reference.engine = "reference";
  kineograph_model* slow = nullptr;
  ASSERT_EQ(kineograph_model_open(folder.c_str(), "", &reference, &slow), KINEOGRAPH_OK) << kineograph_last_error();
  EXPECT_STREQ(kineograph_model_engine(slow), "reference");
  kineograph_model_free(slow);
  kineograph_model_free(opened);
  std::filesystem::remove_all(folder);
}

TEST_F(CApiTest, BadInputGetsACodeAndAText) {
  kineograph_model* none = nullptr;
  const auto text = [] { return std::string(kineograph_last_error()); };
  EXPECT_EQ(kineograph_model_open("/nowhere/at/all", nullptr, nullptr, &none), KINEOGRAPH_IO_ERROR);
  EXPECT_NE(text().find("/nowhere/at/all"), std::string::npos);
  EXPECT_EQ(kineograph_model_open(nullptr, nullptr, nullptr, &none), KINEOGRAPH_ARGUMENT_ERROR);
  EXPECT_EQ(text(), "path: expected a pointer, found null");
  EXPECT_EQ(kineograph_model_from_config("{\"num_layers\": -1}", 0, KINEOGRAPH_F32, nullptr, &none),
            KINEOGRAPH_CONFIG_ERROR);
  EXPECT_EQ(kineograph_model_from_config(kConfig, 0, KINEOGRAPH_I64, nullptr, &none), KINEOGRAPH_ARGUMENT_ERROR);
  EXPECT_EQ(kineograph_model_from_state_dict(kConfig, nullptr, 0, nullptr, &none), KINEOGRAPH_CHECKPOINT_ERROR);
  kineograph_model_options options = KINEOGRAPH_MODEL_OPTIONS_INIT;
  options.engine = "steam";
  EXPECT_EQ(kineograph_model_from_config(kConfig, 0, KINEOGRAPH_F32, &options, &none), KINEOGRAPH_ARGUMENT_ERROR);
  options.size = sizeof options + 8;
  EXPECT_EQ(kineograph_model_from_config(kConfig, 0, KINEOGRAPH_F32, &options, &none), KINEOGRAPH_ARGUMENT_ERROR);
  EXPECT_EQ(none, nullptr);

  EXPECT_EQ(kineograph_model_forward(nullptr, &in_, &out_, &options_), KINEOGRAPH_ARGUMENT_ERROR);
  EXPECT_EQ(kineograph_model_forward(model_, nullptr, &out_, &options_), KINEOGRAPH_ARGUMENT_ERROR);
  kineograph_tensor bad = in_;
  bad.rank = 9;
  EXPECT_EQ(kineograph_model_forward(model_, &bad, &out_, &options_), KINEOGRAPH_ARGUMENT_ERROR);
  EXPECT_EQ(text(), "hidden_states.rank: expected 0 to 8, found 9");
  bad = in_;
  bad.shape[1] = 7;
  EXPECT_EQ(kineograph_model_forward(model_, &bad, &out_, &options_), KINEOGRAPH_ARGUMENT_ERROR);
  bad = in_;
  bad.data = nullptr;
  EXPECT_EQ(kineograph_model_forward(model_, &bad, &out_, &options_), KINEOGRAPH_ARGUMENT_ERROR);
  EXPECT_EQ(text(), "hidden_states: expected a tensor, found null data");
  kineograph_gradients none_wanted = KINEOGRAPH_GRADIENTS_INIT;
  none_wanted.num_parameters = 1;
  EXPECT_EQ(kineograph_model_backward(model_, &in_, &out_, &none_wanted, &options_), KINEOGRAPH_ARGUMENT_ERROR);
}

TEST_F(CApiTest, AThreadKeepsItsOwnText) {
  kineograph_model* none = nullptr;
  ASSERT_EQ(kineograph_model_open("/nowhere/one", nullptr, nullptr, &none), KINEOGRAPH_IO_ERROR);
  std::thread([&] {
    EXPECT_STREQ(kineograph_last_error(), "");
    kineograph_model_open("/nowhere/two", nullptr, nullptr, &none);
  }).join();
  EXPECT_NE(std::string(kineograph_last_error()).find("/nowhere/one"), std::string::npos);
}

TEST_F(CApiTest, AnOlderCallersStructIsTaken) {
  kineograph_forward_options older = options_;
  older.size = offsetof(kineograph_forward_options, training);
  older.training = 1;  // beyond what such a caller's struct has: not read
  ASSERT_EQ(kineograph_model_forward(model_, &in_, &out_, &older), KINEOGRAPH_OK) << kineograph_last_error();
  const std::vector<float> by_older = sample_;
  ASSERT_EQ(kineograph_model_forward(model_, &in_, &out_, &options_), KINEOGRAPH_OK);
  EXPECT_EQ(by_older, sample_);
}

}  // namespace
}  // namespace kineograph

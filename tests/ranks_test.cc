// One clip over several ranks: the same bits for any number of them, and an error on every rank where one has one.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kineograph/kineograph.h"
#include "model/parameters.h"
#include "random_gradient.h"
#include "thread_ranks.h"

namespace kineograph::testing {
namespace {

/// Rows of the picture that each rank has, from the first on.
struct Share {
  std::int64_t first, rows;
};

/// Shares of `ranks` ranks, drawn: uneven, and some of nothing. They do not lie in the order of ranks.
std::vector<Share> draw_shares(std::int64_t height, int ranks, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int64_t> cuts{0, height};
  for (int i = 1; i < ranks; ++i) cuts.push_back(static_cast<std::int64_t>(random() % (height + 1)));
  std::sort(cuts.begin(), cuts.end());
  std::vector<Share> shares;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) shares.push_back({cuts[i], cuts[i + 1] - cuts[i]});
  std::shuffle(shares.begin(), shares.end(), random);
  return shares;
}

/// A view's rows of pixels; `flat`: of a last axis that is H * W.
template <class View>
View rows_of(const View& view, Share share, std::int64_t width, bool flat) {
  Shape shape = view.shape();
  const std::size_t axis = flat ? view.rank() - 1 : 2;
  const std::int64_t each = flat ? width : 1;
  shape[axis] = share.rows * each;
  const std::int64_t offset =
      share.first * each * view.strides()[axis] * static_cast<std::int64_t>(size_of(view.dtype()));
  if constexpr (std::is_same_v<View, TensorView>)
    return {static_cast<const std::byte*>(view.data()) + offset, view.dtype(), shape, view.strides()};
  else
    return {static_cast<std::byte*>(view.data()) + offset, view.dtype(), shape, view.strides()};
}

/// Whether a model of the public interface has the configuration: a sinusoid is of an even width.
bool is_model(std::uint64_t seed) {
  const RandomCase c(seed);
  return c.config.positional_embeddings == PositionalEmbeddings::none || c.config.inner_dim() % 2 == 0;
}

/// A random case behind the public interface.
class SharedCase {
 public:
  SharedCase(std::uint64_t seed, const ModelOptions& options) : c(seed), seed_(seed) {
    make_trained(c, seed);
    std::vector<Parameter> state_dict;
    for (const auto& slot : model::parameter_slots(c.config, c.weights))
      if (*slot.view) state_dict.push_back({slot.name, *slot.view});
    model_ = std::make_unique<TransformerTemporalModel>(
        TransformerTemporalModel::from_state_dict(c.config, state_dict, nullptr, options));
    timestep_ = Tensor(DType::i64, {static_cast<std::int64_t>(c.inputs.timestep.size())});
    labels_ = Tensor(DType::i64, {static_cast<std::int64_t>(c.inputs.class_labels.size())});
    for (std::size_t i = 0; i < c.inputs.timestep.size(); ++i)
      timestep_.data_as<std::int64_t>()[i] = static_cast<std::int64_t>(c.inputs.timestep[i]);
    std::copy(c.inputs.class_labels.begin(), c.inputs.class_labels.end(), labels_.data_as<std::int64_t>());
  }

  ForwardOptions options() const {
    ForwardOptions options;
    options.num_frames = c.inputs.num_frames;
    options.encoder_hidden_states = c.inputs.encoder_hidden_states;
    if (!c.inputs.timestep.empty()) options.timestep = timestep_;
    if (!c.inputs.class_labels.empty()) options.class_labels = labels_;
    options.training_seed = c.inputs.training_seed;
    options.num_threads = 1 + static_cast<int>(seed_ % 3);
    return options;
  }

  /// What a rank is given beside hidden_states; `pixels` keeps the rows of a conditioning a pixel.
  ForwardOptions options_of(Communicator& own, Share share, Tensor& pixels) const {
    ForwardOptions shared = options();
    shared.communicator = &own;
    shared.first_image_row = share.first;
    shared.total_image_rows = c.inputs.height;
    if (c.inputs.encoder_hidden_states && !c.inputs.encoder_per_video) {
      const TensorView& all = c.inputs.encoder_hidden_states;
      const std::int64_t count = share.rows * c.inputs.width, bytes = all.size(1) * all.size(2) * size_of(all.dtype());
      pixels = Tensor(all.dtype(), {c.inputs.num_videos * count, all.size(1), all.size(2)});
      for (std::int64_t video = 0; video < c.inputs.num_videos; ++video)
        std::memcpy(static_cast<std::byte*>(pixels.data()) + video * count * bytes,
                    static_cast<const std::byte*>(all.data()) +
                        (video * c.inputs.height + share.first) * c.inputs.width * bytes,
                    static_cast<std::size_t>(count * bytes));
      shared.encoder_hidden_states = pixels;
    }
    return shared;
  }

  Tensor forward() const {
    Tensor sample = c.make_output();
    model_->forward(c.inputs.hidden_states, sample.mutable_view(), options());
    return sample;
  }

  Tensor forward(const std::vector<Share>& shares) const {
    Tensor sample = c.make_output();
    const auto thrown = run_ranks(static_cast<int>(shares.size()), [&](Communicator& own) {
      const Share share = shares[static_cast<std::size_t>(own.rank())];
      Tensor pixels, copy;
      TensorView input = rows(c.inputs.hidden_states, share);
      // Half of the ranks have their rows by themselves, the others within the whole.
      if (own.rank() % 2 == 0 && input.numel() != 0 && !c.config.is_discrete())
        input = copy = convert(input, input.dtype());
      model_->forward(input, rows(sample.mutable_view(), share), options_of(own, share, pixels));
    });
    for (const auto& one : thrown)
      if (one) std::rethrow_exception(one);
    return sample;
  }

  struct GradientSet {
    Tensor hidden_states;
    std::vector<Tensor> parameters;  ///< summed over the ranks, f32
  };

  GradientSet backward(const std::vector<Share>& shares) const {
    const bool discrete = c.config.is_discrete();
    const Tensor by_sample = sample_gradient(c, seed_);
    GradientSet whole;
    if (!discrete) whole.hidden_states = Tensor(DType::f32, c.inputs.hidden_states.shape());
    std::vector<std::vector<Tensor>> parts(std::max<std::size_t>(1, shares.size()));
    const auto run = [&](std::vector<Tensor>& own, TensorView input, TensorView gradient, MutableTensorView by_input,
                         const ForwardOptions& options) {
      Gradients wanted;
      wanted.hidden_states = by_input;
      for (const Parameter& parameter : model_->parameters()) {
        if (parameter.name.ends_with(".pe")) continue;
        own.emplace_back(DType::f32, parameter.value.shape());
        // Written whole, also by a rank that has no rows.
        for (std::int64_t i = 0; i < own.back().numel(); ++i) own.back().data_as<float>()[i] = 1e30f;
        wanted.parameters.push_back({parameter.name, own.back().mutable_view()});
      }
      model_->backward(input, gradient, wanted, options);
    };
    if (shares.empty()) {
      run(parts[0], c.inputs.hidden_states, by_sample,
          discrete ? MutableTensorView() : whole.hidden_states.mutable_view(), options());
    } else {
      const auto thrown = run_ranks(static_cast<int>(shares.size()), [&](Communicator& own) {
        const Share share = shares[static_cast<std::size_t>(own.rank())];
        Tensor pixels;
        run(parts[static_cast<std::size_t>(own.rank())], rows(c.inputs.hidden_states, share),
            rows(by_sample.view(), share),
            discrete ? MutableTensorView() : rows(whole.hidden_states.mutable_view(), share),
            options_of(own, share, pixels));
      });
      for (const auto& one : thrown)
        if (one) std::rethrow_exception(one);
    }
    whole.parameters = std::move(parts[0]);
    for (std::size_t rank = 1; rank < parts.size(); ++rank)
      for (std::size_t i = 0; i < whole.parameters.size(); ++i)
        for (std::int64_t j = 0; j < whole.parameters[i].numel(); ++j)
          whole.parameters[i].data_as<float>()[j] += parts[rank][i].data_as<float>()[j];
    return whole;
  }

  RandomCase c;

 private:
  template <class View>
  View rows(const View& view, Share share) const {
    return rows_of(view, share, c.inputs.width, c.config.is_discrete());
  }

  std::uint64_t seed_;
  std::unique_ptr<TransformerTemporalModel> model_;
  Tensor timestep_, labels_;
};

void expect_close(const Tensor& got, const Tensor& want, const std::string& what) {
  double largest = 0.0, off = 0.0;
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(want.data_as<float>()[i])));
    off = std::max(off, std::abs(static_cast<double>(got.data_as<float>()[i] - want.data_as<float>()[i])));
  }
  // Sums of some hundred f32 values in another order.
  EXPECT_LE(off, 2e-4 * largest + 1e-6) << what;
}

struct Setting {
  std::string engine, isa;
  DType dtype;
};

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const std::string& engine : engines())
    for (const std::string& isa : instruction_sets(engine))
      for (const DType dtype : {DType::f32, DType::bf16})
        if (engine != "reference" || dtype == DType::f32) all.push_back({engine, isa, dtype});
  return all;
}

class Ranks : public ::testing::TestWithParam<Setting> {
 protected:
  ModelOptions options() const {
    ModelOptions options;
    options.engine = GetParam().engine;
    options.isa = GetParam().isa;
    options.compute_dtype = GetParam().dtype;
    return options;
  }
  /// Reference forwards are slow, and take most of their time without ranks.
  std::uint64_t cases() const { return GetParam().engine == "reference" ? 16 : 32; }
};

TEST_P(Ranks, GiveTheSameBitsForAnyNumberOfThem) {
  int frame_scope = 0, dropout = 0, discrete = 0;
  for (std::uint64_t seed = 0; seed < cases(); ++seed) {
    if (!is_model(seed)) continue;
    const SharedCase shared(seed, options());
    const Tensor one = shared.forward();
    frame_scope += shared.c.config.group_norm_scope == GroupNormScope::frame;
    dropout += shared.c.config.dropout != 0.0;
    discrete += shared.c.config.is_discrete();
    for (int ranks = 1; ranks <= 4; ++ranks) {
      const Tensor many = shared.forward(draw_shares(shared.c.inputs.height, ranks, seed));
      ASSERT_EQ(std::memcmp(one.data(), many.data(), one.bytes()), 0)
          << ranks << " ranks, seed " << seed << ": " << shared.c.describe();
    }
  }
  EXPECT_GT(frame_scope, 2);
  EXPECT_GT(dropout, 2);
  EXPECT_GT(discrete, 1);
}

TEST_P(Ranks, GiveTheSameGradientsForAnyNumberOfThem) {
  for (std::uint64_t seed = 0; seed < cases() / 2; ++seed) {
    if (!is_model(seed)) continue;
    const SharedCase shared(seed, options());
    const auto alone = shared.backward({});
    const auto one = shared.backward({{0, shared.c.inputs.height}});
    for (int ranks = 2; ranks <= 4; ++ranks) {
      const auto many = shared.backward(draw_shares(shared.c.inputs.height, ranks, seed));
      const std::string what =
          std::to_string(ranks) + " ranks, seed " + std::to_string(seed) + ": " + shared.c.describe();
      if (one.hidden_states) {
        ASSERT_EQ(std::memcmp(one.hidden_states.data(), many.hidden_states.data(), one.hidden_states.bytes()), 0)
            << what;
        expect_close(many.hidden_states, alone.hidden_states, what);
      }
      for (std::size_t i = 0; i < many.parameters.size(); ++i)
        expect_close(many.parameters[i], alone.parameters[i], "parameter " + std::to_string(i) + ", " + what);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Ranks, ::testing::ValuesIn(settings()), [](const auto& info) {
  return info.param.engine + "_" + info.param.isa + "_" + std::string(name_of(info.param.dtype));
});

TransformerTemporalModel small_model(const std::string& engine) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.in_channels = 16;
  config.norm_num_groups = 4;
  ModelOptions options;
  options.engine = engine;
  return TransformerTemporalModel::from_config(config, 1, options);
}

/// What a thread threw, as text that begins with its class.
std::string text_of(const std::exception_ptr& thrown) {
  if (!thrown) return "nothing";
  try {
    std::rethrow_exception(thrown);
  } catch (const CommunicationError& error) {
    return std::string("CommunicationError ") + error.what();
  } catch (const ArgumentError& error) {
    return std::string("ArgumentError ") + error.what();
  } catch (const Cancelled& error) {
    return std::string("Cancelled ") + error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
}

/// Three ranks with four rows each of (4, 16, 12, 5), whose options `change` may alter.
std::vector<std::string> errors_of(const std::string& engine,
                                   const std::function<void(int rank, ForwardOptions&)>& change,
                                   bool backward = false) {
  const auto model = small_model(engine);
  const auto started = std::chrono::steady_clock::now();
  const auto thrown = run_ranks(3, [&](Communicator& own) {
    const Tensor x(DType::f32, {4, 16, 4, 5});
    Tensor y(DType::f32, {4, 16, 4, 5});
    ForwardOptions options{.num_frames = 2, .num_threads = 2};
    options.communicator = &own;
    options.first_image_row = 4 * own.rank();
    options.total_image_rows = 12;
    change(own.rank(), options);
    Gradients wanted;
    wanted.hidden_states = y.mutable_view();
    if (backward)
      model.backward(x, x, wanted, options);
    else
      model.forward(x, y.mutable_view(), options);
  });
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(30)) << "nobody waits for the others";
  std::vector<std::string> errors;
  for (const auto& one : thrown) errors.push_back(text_of(one));
  return errors;
}

void expect_on_every_rank(const std::vector<std::string>& errors, const std::string& text) {
  for (const std::string& error : errors) EXPECT_EQ(error, text);
}

TEST(RanksErrors, AreTheSameOnEveryRankWhereTheCallsDiffer) {
  for (const std::string& engine : engines()) {
    expect_on_every_rank(errors_of(engine, [](int, ForwardOptions&) {}), "nothing");
    expect_on_every_rank(
        errors_of(engine, [](int rank, ForwardOptions& options) { options.num_frames = rank == 1 ? 4 : 2; }),
        "ArgumentError videos in hidden_states: expected the same on every rank, found 2 on rank 0, 1 on rank 1");
    expect_on_every_rank(
        errors_of(engine, [](int rank, ForwardOptions& options) { options.total_image_rows = rank == 2 ? 13 : 12; }),
        "ArgumentError total_image_rows: expected the same on every rank, found 12 on rank 0, 13 on rank 2");
    expect_on_every_rank(
        errors_of(engine, [](int rank, ForwardOptions& options) { options.first_image_row -= rank == 2 ? 1 : 0; }),
        "ArgumentError first_image_row: expected rows 0 to 11, each of one rank, found row 7 of two ranks, one of them "
        "rank 2");
    expect_on_every_rank(
        errors_of(engine,
                  [](int rank, ForwardOptions& options) {
                    options.total_image_rows = 13;
                    options.first_image_row += rank == 2 ? 1 : 0;
                  }),
        "ArgumentError first_image_row: expected rows 0 to 12, each of one rank, found row 8 of no rank");
  }
}

TEST(RanksErrors, ReachTheOthersWhereOneRankIsRefused) {
  for (const std::string& engine : engines()) {
    const auto errors =
        errors_of(engine, [](int rank, ForwardOptions& options) { options.num_threads = rank == 1 ? -1 : 2; });
    EXPECT_EQ(errors[1], "ArgumentError num_threads: expected 0 or more, found -1");
    for (const int rank : {0, 2})
      EXPECT_EQ(errors[static_cast<std::size_t>(rank)],
                "CommunicationError communicator: expected every rank's part of the call, found that of rank 1 failed. "
                "That rank has its own error.");
  }
}

// Between the statistics and the sums of backward.
TEST(RanksErrors, ReachTheOthersWhereOneRankIsCancelled) {
  for (const std::string& engine : engines()) {
    const auto errors = errors_of(
        engine,
        [](int rank, ForwardOptions& options) {
          if (rank == 0) options.on_progress = [](double) { return false; };
        },
        true);
    EXPECT_TRUE(errors[0].starts_with("Cancelled")) << errors[0];
    for (const int rank : {1, 2})
      EXPECT_TRUE(errors[static_cast<std::size_t>(rank)].find("that of rank 0 failed") != std::string::npos)
          << errors[static_cast<std::size_t>(rank)];
  }
}

TEST(RanksErrors, NameRowsWithoutACommunicator) {
  const auto model = small_model("auto");
  const Tensor x(DType::f32, {2, 16, 4, 5});
  ForwardOptions options{.num_frames = 2};
  options.total_image_rows = 8;
  EXPECT_THROW(model.forward(x, options), ArgumentError);
  options.total_image_rows = 0;
  options.first_image_row = 1;
  EXPECT_THROW(model.forward(x, options), ArgumentError);
}

}  // namespace
}  // namespace kineograph::testing

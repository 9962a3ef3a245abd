// Attention over the pixels of a row is TransformerTemporalModel's over frames, of a video whose frames are the pixels.
#include "engine/reference/spatial.h"

#include <algorithm>

#include "base/late.h"
#include "base/threads.h"
#include "engine/conditioning.h"
#include "engine/progress.h"
#include "engine/reference/passage.h"
#include "kineograph/error.h"

namespace kineograph::engine::reference {
namespace {

/// The call with every row of hidden_states as a video of one frame.
Inputs as_rows(const Inputs& inputs) {
  Inputs rows = inputs;
  rows.num_videos = inputs.num_videos * inputs.num_frames;
  rows.num_frames = 1;
  rows.encoder_per_video = true;
  return rows;
}

/// The same with a row's pixels as the frames of one pixel: blocks then attend to pixels.
Inputs as_sequences(const Inputs& rows) {
  Inputs sequences = rows;
  sequences.num_frames = rows.height * rows.width;
  sequences.height = sequences.width = 1;
  return sequences;
}

/// The call as the temporal blocks see it.
Inputs as_clips(const Inputs& inputs) {
  Inputs clips = inputs;
  clips.encoder_per_video = true;
  return clips;
}

class SpatialPlan : public Plan {
 public:
  SpatialPlan(const TransformerConfig& config, const Weights& weights) : config_(config), weights_(weights) {}

  std::size_t workspace_bytes(const Inputs& inputs) const override {
    // The residual stream, and the widest moment of a row in each thread: as in ReferencePlan.
    const auto row = static_cast<std::size_t>(inputs.height * inputs.width * config_.inner_dim()) * sizeof(double);
    return row * (static_cast<std::size_t>(inputs.num_videos * inputs.num_frames) +
                  16 * static_cast<std::size_t>(threads_of(inputs)));
  }

  void forward(const Inputs& inputs, const MutableTensorView& output) const override {
    const Inputs rows = as_rows(inputs), sequences = as_sequences(rows), clips = as_clips(inputs);
    const Conditioning by_row = compute_conditioning(config_, weights_, rows);
    const AllLayers& all = layers_.get([&] {
      return std::make_unique<AllLayers>(AllLayers{load(weights_), load_temporal(weights_), load_entries(weights_)});
    });
    const Conditioning none(all.rows.blocks.size(), static_cast<std::size_t>(inputs.num_videos));
    const int threads = threads_of(inputs);
    Passage image(config_, GroupNormScope::frame, all.rows, rows, by_row);
    const Passage spatial(config_, GroupNormScope::frame, all.rows, sequences, by_row);
    const Passage temporal(config_, GroupNormScope::frame, all.temporal, clips, none);
    const Blend blend = all.entries.empty()
                            ? Blend{}
                            : Blend{frame_embeddings(weights_, inputs.num_frames), spatial_shares(weights_, inputs)};
    image.take_statistics(threads);

    const std::int64_t pixels = inputs.height * inputs.width;
    const std::size_t layers = all.rows.blocks.size();
    expect(inputs.progress,
           layers * static_cast<std::size_t>(rows.num_videos + (all.entries.empty() ? 0 : Runs(clips).size())));
    std::vector<Array> x(static_cast<std::size_t>(rows.num_videos));  // (HW, I) each
    const auto each_row = [&](auto&& work) {
      parallel_for(rows.num_videos, threads, inputs.executor,
                   [&](std::int64_t row) { work(row, x[static_cast<std::size_t>(row)]); });
    };
    each_row([&](std::int64_t row, Array& tokens) { tokens = image.enter({row, 0, pixels, rows.num_frames}); });
    for (std::size_t layer = 0; layer < layers; ++layer) {
      each_row([&](std::int64_t row, Array& tokens) {
        spatial.block(layer, {row, 0, 1, sequences.num_frames}, tokens);
        advance(inputs.progress);
      });
      if (!all.entries.empty()) mix_frames(all.entries[layer], layer, temporal, blend, threads, x);
    }
    each_row([&](std::int64_t row, const Array& tokens) {
      image.leave({row, 0, pixels, rows.num_frames}, tokens, output);
    });
  }

  void backward(const Inputs&, const TensorView&, const Gradients&) const override {
    throw ArgumentError("backward", "TransformerTemporalModel", "a model of another class");
  }

 private:
  struct AllLayers {
    Layers rows, temporal;
    std::vector<TemporalEntry> entries;
  };

  /// The embedding that is added to a temporal block's input, (F, I); and the share of the spatial block's output, one
  /// a row.
  struct Blend {
    Array embedding, shares;
  };

  /// x = share x + (1 - share) temporal_block(x + time_pos_embed)
  void mix_frames(const TemporalEntry& entry, std::size_t layer, const Passage& temporal, const Blend& blend,
                  int threads, std::vector<Array>& x) const {
    const Inputs& clips = temporal.inputs;
    const auto frames = static_cast<std::size_t>(clips.num_frames);
    const Runs runs(clips);
    parallel_for(runs.size(), threads, clips.executor, [&](std::int64_t i) {
      const Run run = runs[i];
      // Element c of a token of the run in the residual stream.
      const auto at = [&](std::size_t token, std::size_t c) -> double& {
        const auto row = static_cast<std::size_t>(run.video) * frames + token % frames;
        return x[row][(static_cast<std::size_t>(run.first) + token / frames) * temporal.inner + c];
      };
      Array mixed(temporal.tokens(run) * temporal.inner);  // (pixels, F, I)
      for (std::size_t j = 0; j < mixed.size(); ++j) {
        const std::size_t token = j / temporal.inner, c = j % temporal.inner;
        mixed[j] = at(token, c) + blend.embedding[token % frames * temporal.inner + c];
      }
      enter_temporal(entry, temporal.tokens(run), mixed);
      temporal.block(layer, run, mixed);
      for (std::size_t j = 0; j < mixed.size(); ++j) {
        const std::size_t token = j / temporal.inner, c = j % temporal.inner;
        const double share = blend.shares[static_cast<std::size_t>(run.video) * frames + token % frames];
        at(token, c) = share * at(token, c) + (1.0 - share) * mixed[j];
      }
      advance(clips.progress);
    });
  }

  /// x += ff_in(norm_in(x))
  void enter_temporal(const TemporalEntry& entry, std::size_t tokens, Array& x) const {
    const Array n = layer_norm(x, tokens, entry.ff_in.cols, entry.norm_in.weight, entry.norm_in.bias, config_.norm_eps);
    const Array hidden = activate(config_.activation_fn, linear(entry.ff_in, n, tokens), tokens, entry.ff_out.cols);
    const Array y = linear(entry.ff_out, hidden, tokens);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  TransformerConfig config_;
  Weights weights_;
  mutable Late<AllLayers> layers_;  ///< in double, from the first call on
};

}  // namespace

std::unique_ptr<const Plan> prepare_spatial(const TransformerConfig& config, const Weights& weights) {
  return std::make_unique<SpatialPlan>(config, weights);
}

}  // namespace kineograph::engine::reference

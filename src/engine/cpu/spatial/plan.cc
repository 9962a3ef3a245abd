#include "engine/cpu/spatial/plan.h"

#include <algorithm>
#include <functional>

#include "base/threads.h"
#include "engine/conditioning.h"
#include "engine/cpu/call/make.h"
#include "engine/cpu/pack/pack.h"
#include "engine/cpu/schedule/schedule.h"
#include "engine/cpu/spatial/context.h"
#include "engine/cpu/spatial/rows.h"
#include "engine/progress.h"
#include "kineograph/error.h"

namespace kineograph::engine::cpu {
namespace {

/// Memory of a call beyond the model and the caller's, kept for the next one.
struct RowsState {
  RowsCall call;
  GroupNormTables group_norm;
  Modulations rows, clips;
};

/// The configuration as pack_model takes it.
TransformerTemporalConfig as_temporal(const ModelConfig& config) {
  TransformerTemporalConfig temporal;
  static_cast<TransformerConfig&>(temporal) = common(config);
  temporal.group_norm_scope = GroupNormScope::frame;
  return temporal;
}

/// A call whose videos are the rows of `inputs`.
Inputs as_rows(const Inputs& inputs) {
  Inputs rows = inputs;
  rows.num_videos = inputs.num_videos * inputs.num_frames;
  rows.num_frames = 1;
  return rows;
}

/// to_k_ip and to_v_ip of one adapter, a head at a time.
std::vector<PackedLinear> pack_prompt(const Attention& attention, std::size_t adapter, const PackedModel& model,
                                      std::size_t max_rows) {
  std::vector<PackedLinear> heads;
  const std::size_t d = model.head_dim;
  for (std::size_t head = 0; head < model.heads; ++head) {
    const auto part = [&](const Linear& linear) { return RowRange{linear.weight, linear.bias, head * d, d}; };
    const Linear &keys = attention.to_k_ip[adapter], &values = attention.to_v_ip[adapter];
    heads.push_back(pack_rows({part(keys), part(values)}, 0, static_cast<std::size_t>(keys.weight.size(1)),
                              {model.arithmetic, max_rows}));
  }
  return heads;
}

/// The cut of rows into tiles.
struct Tiling {
  TileShape shape;
  std::size_t runs = 0;  ///< of N pixels, a row
  std::size_t rows = 1;  ///< of a tile
  std::size_t per_row = 1;
  /// About 16 vectors a tile, as choose_tile has it: of equal parts of a row, or of whole rows. Rows of a tile share
  /// their modulation.
  Tiling(std::size_t lanes, std::size_t pixels, std::size_t all_rows, bool one_row) {
    constexpr std::size_t kVectors = 16;
    runs = (pixels + lanes - 1) / lanes;
    per_row = (runs + kVectors - 1) / kVectors;
    if (!one_row) rows = std::clamp<std::size_t>((kVectors + runs / 2) / runs, 1, all_rows);
    shape.lanes = lanes;
    shape.frames = rows;
    shape.runs = (runs + per_row - 1) / per_row;
    if (per_row > 1) shape.runs = round_up(shape.runs, 2);
    per_row = (runs + shape.runs - 1) / shape.runs;
  }
  std::size_t count(std::size_t row_count) const { return (row_count + rows - 1) / rows * per_row; }
  /// Tile i of rows [first, first + count).
  Tile at(std::size_t i, std::size_t first, std::size_t count, std::size_t pixels) const {
    const std::size_t row = i / per_row * rows, pixel = i % per_row * shape.pixels();
    Tile tile;
    tile.first = (first + row) * pixels + pixel;
    tile.count = std::min(shape.pixels(), pixels - pixel);
    tile.shape = shape;
    tile.shape.frames = std::min(rows, count - row);
    tile.shape.runs = (tile.count + shape.lanes - 1) / shape.lanes;
    return tile;
  }
};

class RowsPlan : public Plan {
 public:
  RowsPlan(const ModelConfig& config, const Weights& weights, const Target& target, DType compute_dtype,
           const Lent& lent)
      : target_(target), arithmetic_(target.arithmetic(compute_dtype)), weights_(weights), lent_(lent) {
    pack_on(lent, [&] { pack(as_temporal(config)); });
  }

  std::size_t workspace_bytes(const Inputs& inputs) const override {
    const int threads = threads_of(inputs);
    RowsCall call;
    describe(inputs, {}, call);
    const Extents extents = extents_of(inputs, call, threads);
    return extents.stream * sizeof(float) + extents.key_buffers * extents.keys_values * sizeof(std::uint32_t) +
           static_cast<std::size_t>(threads) * workspaces(inputs, call).bytes() +
           call.rows.videos * model_.channels * 3 * sizeof(float);
  }

  void forward(const Inputs& inputs, const MutableTensorView& output) const override {
    refuse(inputs);
    const int threads = threads_of(inputs);
    const Pool<RowsState>::Borrowed state(states_);
    const auto body = [&] {
      describe(inputs, output, state->call);
      prepare(inputs, threads, *state);
      run(inputs, threads, state->call);
    };
    run_on({inputs.executor, lent_.memory}, threads, std::cref(body));
  }

  void backward(const Inputs&, const TensorView&, const Gradients&) const override {
    throw ArgumentError("backward", "TransformerTemporalModel", "a model of another class");
  }

 private:
  void pack(const TransformerTemporalConfig& config) {
    Weights spatial = weights_;
    spatial.temporal_blocks.clear();
    model_ = pack_model(config, spatial, arithmetic_, target_.max_rows);
    if (!weights_.temporal_blocks.empty())
      clips_ = pack_temporal_blocks(config, weights_, arithmetic_, target_.max_rows);
    for (const Block& block : weights_.blocks) {
      prompts_.emplace_back();
      for (std::size_t i = 0; i < block.attn2.to_k_ip.size(); ++i)
        prompts_.back().push_back(pack_prompt(block.attn2, i, model_, target_.max_rows));
    }
  }

  bool temporal() const { return !clips_.blocks.empty(); }

  void refuse(const Inputs& inputs) const {
    if (any_processor(inputs))
      throw ArgumentError("attention_processors", "none for this class in the engine cpu", "some",
                          "The engine reference takes them.");
    if (inputs.training_seed && model_.config.dropout > 0.0)
      throw ArgumentError("training", "no dropout for this class in the engine cpu", "a dropout above 0",
                          "The engine reference drops.");
  }

  /// Fills in place, so that a reused call keeps its memory.
  void describe(const Inputs& inputs, const MutableTensorView& output, RowsCall& call) const {
    const auto describe_one = [&](const PackedModel& model, const Inputs& of, Call& one) {
      one.model = &model;
      one.inputs = &inputs;
      one.videos = static_cast<std::size_t>(of.num_videos);
      one.frames = one.attended_frames = static_cast<std::size_t>(of.num_frames);
      one.height = static_cast<std::size_t>(of.height);
      one.width = static_cast<std::size_t>(of.width);
      one.pixels = one.height * one.width;
      one.input = image_of(of.hidden_states, of.width);
      one.output = image_of(output, of.width);
      one.group_set_per_frame = true;
    };
    describe_one(model_, as_rows(inputs), call.rows);
    describe_one(clips_, inputs, call.clips);
    describe_steps(inputs, call.steps);
    call.pixels =
        KeyValueLayout(attention_arithmetic(arithmetic_), target_.max_rows, model_.head_dim, call.rows.pixels);
    call.runs = (call.rows.pixels + target_.lanes - 1) / target_.lanes;
  }

  void describe_steps(const Inputs& inputs, std::vector<Step>& steps) const {
    steps.clear();
    std::size_t turn = 0;
    for (std::size_t layer = 0; layer < model_.blocks.size(); ++layer) {
      for (std::size_t which = 0; which < 2; ++which) {
        if (model_.blocks[layer].attn[which].out.empty()) continue;
        const bool over_pixels = !reads_context(which) || !inputs.encoder_hidden_states;
        steps.push_back({Step::Kind::attention, layer, which, over_pixels, over_pixels ? turn++ % 2 : 0});
      }
      steps.push_back({Step::Kind::feed_forward, layer});
    }
  }
  bool reads_context(std::size_t which) const { return which == 1 || model_.config.only_cross_attention; }

  Tiling tiling(const RowsCall& call) const {
    return Tiling(target_.lanes, call.rows.pixels, call.rows.videos, model_.config.norm_type != NormType::layer_norm);
  }

  /// Rows that are walked at once: tiles enough for all threads.
  std::size_t rows_in_flight(const RowsCall& call, int threads) const {
    constexpr std::size_t kTilesPerThread = 8;
    const Tiling tiles = tiling(call);
    const std::size_t rows =
        (kTilesPerThread * static_cast<std::size_t>(threads) + tiles.per_row - 1) / tiles.per_row * tiles.rows;
    return std::min(rows, call.rows.videos);
  }

  /// Elements of what lies between segments.
  struct Extents {
    std::size_t stream = 0, keys_values = 0, key_buffers = 0;
  };
  Extents extents_of(const Inputs& inputs, const RowsCall& call, int threads) const {
    const std::size_t batch = rows_in_flight(call, threads);
    const auto over = static_cast<std::size_t>(
        std::count_if(call.steps.begin(), call.steps.end(), [](const Step& step) { return step.over_pixels; }));
    const std::size_t stream_rows = temporal() ? static_cast<std::size_t>(inputs.num_frames) : over == 0 ? 0 : batch;
    return {stream_rows * call.runs * pad_channels(model_.inner) * target_.lanes,
            batch * model_.heads * call.pixels.size(), std::min<std::size_t>(over, 2)};
  }

  WorkspaceSizes workspaces(const Inputs& inputs, const RowsCall& call) const {
    const Tiling tiles = tiling(call);
    WorkspaceSizes sizes = workspace_sizes(model_, tiles.shape, tiles.shape.frames, 0, 0);
    std::size_t panels = tiles.shape.panels();
    if (temporal()) {
      const TileShape shape = clip_shape(call);
      const WorkspaceSizes more = workspace_sizes(clips_, shape, shape.frames, 0, 0);
      panels = std::max(panels, shape.panels());
      for (std::size_t WorkspaceSizes::*const size :
           {&WorkspaceSizes::x, &WorkspaceSizes::normed, &WorkspaceSizes::attended, &WorkspaceSizes::qkv,
            &WorkspaceSizes::scores, &WorkspaceSizes::hidden, &WorkspaceSizes::block})
        sizes.*size = std::max(sizes.*size, more.*size);
    }
    // The piece is as large whatever the number of keys. Image prompts sum beside it.
    const std::size_t panel = 2 * target_.lanes;
    std::size_t attends = online_attention_floats(call.pixels, panel, panels);
    if (!inputs.image_prompts.empty()) attends += panels * pad_channels(model_.head_dim) * panel;
    sizes.scores = std::max(sizes.scores, attends);
    return sizes;
  }

  TileShape clip_shape(const RowsCall& call) const {
    return choose_tile(target_.lanes, call.clips.frames, call.clips.pixels);
  }

  /// Statistics, conditioning, and what rows attend to besides pixels.
  void prepare(const Inputs& inputs, int threads, RowsState& state) const {
    RowsCall& call = state.call;
    take_moments(call.rows, target_, threads, state.group_norm);
    make_tables(call.rows, true, state.group_norm);
    for (Call* one : {&call.rows, &call.clips}) {
      one->group_mean = state.group_norm.mean.data();
      one->group_scale = state.group_norm.scale.data();
      one->group_shift = state.group_norm.shift.data();
    }
    modulate(weights_, as_rows(inputs), call.rows, state.rows);
    if (temporal()) modulate(weights_, inputs, call.clips, state.clips);
    call.biases[0] = read_biases(inputs.attention_bias);
    call.biases[1] = read_biases(inputs.encoder_attention_bias);
    prepare_contexts(inputs, threads, call);
    const Extents extents = extents_of(inputs, call, threads);
    grow(call.stream, extents.stream);
    for (std::size_t turn = 0; turn < extents.key_buffers; ++turn) {
      grow(call.keys_values[turn], extents.keys_values);
      // Padding is never written later: zeros.
      std::fill_n(call.keys_values[turn].data(), extents.keys_values, 0u);
    }
    if (!temporal()) return;
    const std::vector<double> embedding = frame_embeddings(weights_, inputs.num_frames);
    const std::vector<double> shares = spatial_shares(weights_, inputs);
    call.frame_embedding.assign(embedding.begin(), embedding.end());
    call.spatial_share.assign(shares.begin(), shares.end());
  }

  void prepare_contexts(const Inputs& inputs, int threads, RowsCall& call) const {
    const std::size_t rows = call.rows.videos, layers = model_.blocks.size();
    call.context.of_row.clear();
    call.clip_context.of_row.clear();
    call.image_prompts.resize(inputs.image_prompts.size());
    if (inputs.encoder_hidden_states) {
      ContextRequest request{inputs.encoder_hidden_states, rows, 1, layers, {}};
      for (std::size_t layer = 0; layer < layers; ++layer)
        for (std::size_t which = 0; which < 2; ++which)
          if (reads_context(which) && !model_.blocks[layer].attn[which].out.empty())
            request.through.push_back({&model_.blocks[layer].attn[which].kv, 2 * layer + which});
      if (!request.through.empty()) project_tokens(request, model_, target_, threads, call.context);
      if (temporal() && !request.through.empty()) {
        request.step = call.clips.frames;
        request.through.clear();
        for (std::size_t layer = 0; layer < layers; ++layer)
          request.through.push_back({&clips_.blocks[layer].attn[1].kv, 2 * layer + 1});
        project_tokens(request, clips_, target_, threads, call.clip_context);
      }
    }
    for (std::size_t i = 0; i < call.image_prompts.size(); ++i) {
      const ImagePrompt& prompt = inputs.image_prompts[i];
      ContextRequest request{prompt.hidden_states, rows, 1, layers, {}};
      for (std::size_t layer = 0; layer < layers; ++layer)
        request.through.push_back({&prompts_[layer][i], 2 * layer + 1});
      project_tokens(request, model_, target_, threads, call.image_prompts[i]);
      call.image_prompts[i].scale.assign(prompt.scale.begin(), prompt.scale.end());
    }
  }

  /// The segments of steps [first, last), which begin with the input or the stream.
  static std::vector<Segment> segments_of(const std::vector<Step>& steps, std::size_t first, std::size_t last,
                                          Segment::Begin begin, Segment::End end) {
    std::vector<Segment> segments;
    Segment now{begin, end, first, last};
    for (std::size_t i = first; i < last; ++i) {
      if (!steps[i].over_pixels) continue;
      now.end = Segment::End::keys;
      now.last = i;
      segments.push_back(now);
      now = {Segment::Begin::stream, end, i, last};
    }
    now.end = end;
    now.last = last;
    segments.push_back(now);
    return segments;
  }

  /// rows(segments, first row of the stream, first, count) for rows that are walked at once, and clip(segment, video)
  /// for the temporal block of a video, in order.
  template <class Rows, class Clip>
  void each_stage(const RowsCall& call, int threads, const Rows& rows, const Clip& clip) const {
    const std::size_t count = call.rows.videos, batch = rows_in_flight(call, threads);
    if (!temporal()) {
      const auto segments = segments_of(call.steps, 0, call.steps.size(), Segment::Begin::input, Segment::End::output);
      for (std::size_t row = 0; row < count; row += batch) rows(segments, row, row, std::min(batch, count - row));
      return;
    }
    const std::size_t frames = call.clips.frames, layers = model_.blocks.size();
    for (std::size_t video = 0; video < call.clips.videos; ++video) {
      std::size_t step = 0;
      for (std::size_t layer = 0; layer < layers; ++layer) {
        const std::size_t first = step, origin = video * frames;
        while (step < call.steps.size() && call.steps[step].layer == layer) ++step;
        const auto segments = segments_of(
            call.steps, first, step, layer == 0 ? Segment::Begin::input : Segment::Begin::stream, Segment::End::stream);
        for (std::size_t frame = 0; frame < frames; frame += batch)
          rows(segments, origin, origin + frame, std::min(batch, frames - frame));
        Segment over;
        over.over_frames = true;
        over.layer = layer;
        over.end = layer + 1 == layers ? Segment::End::output : Segment::End::stream;
        clip(over, video);
      }
    }
  }

  void run(const Inputs& inputs, int threads, RowsCall& call) const {
    const WorkspaceSizes sizes = workspaces(inputs, call);
    const Tiling tiles = tiling(call);
    const std::size_t clip_tiles = temporal() ? tiles_of_clip(call) : 0;
    std::size_t steps = 0;
    each_stage(
        call, threads,
        [&](const std::vector<Segment>& segments, std::size_t, std::size_t, std::size_t count) {
          steps += segments.size() * tiles.count(count);
        },
        [&](const Segment&, std::size_t) { steps += clip_tiles; });
    expect(inputs.progress, steps);
    each_stage(
        call, threads,
        [&](const std::vector<Segment>& segments, std::size_t origin, std::size_t first, std::size_t count) {
          call.first_row = origin;
          call.first_key_row = first;
          for (const Segment& segment : segments)
            walk_indices(tiles.count(count), threads, sizes, workspaces_, inputs.progress,
                         [&](std::size_t i, Team& team, Workspace& own) {
                           walk(segment, tiles.at(i, first, count, call.rows.pixels), team, own, call);
                         });
        },
        [&](const Segment& segment, std::size_t video) {
          walk_indices(clip_tiles, threads, sizes, workspaces_, inputs.progress,
                       [&](std::size_t i, Team& team, Workspace& own) {
                         walk(segment, clip_tile(call, video, i), team, own, call);
                       });
        });
  }

  std::size_t tiles_of_clip(const RowsCall& call) const {
    const std::size_t each = clip_shape(call).pixels();
    return (call.clips.pixels + each - 1) / each;
  }
  Tile clip_tile(const RowsCall& call, std::size_t video, std::size_t i) const {
    const std::size_t pixels = call.clips.pixels;
    Tile tile;
    tile.shape = clip_shape(call);
    const std::size_t first = i * tile.shape.pixels();
    tile.first = video * pixels + first;
    tile.count = std::min(tile.shape.pixels(), pixels - first);
    tile.shape.runs = (tile.count + tile.shape.lanes - 1) / tile.shape.lanes;
    return tile;
  }

  void walk(const Segment& segment, const Tile& tile, Team& team, Workspace& own, const RowsCall& call) const {
    target_.walk_segment[static_cast<int>(arithmetic_)](call, segment, tile, team, own);
  }

  const Target& target_;
  Arithmetic arithmetic_;
  Weights weights_;  // views; read again for conditioning
  Lent lent_;
  PackedModel model_;
  PackedModel clips_;                                            ///< the temporal blocks, if there are any
  std::vector<std::vector<std::vector<PackedLinear>>> prompts_;  ///< [layer][adapter][head]: keys, then values
  mutable WorkspacePool workspaces_;
  mutable Pool<RowsState> states_;
};

}  // namespace

bool runs_rows(const Weights& weights) {
  return std::none_of(weights.blocks.begin(), weights.blocks.end(), [](const Block& block) { return bool(block.pe); });
}

std::unique_ptr<const Plan> prepare_rows(const ModelConfig& config, const Weights& weights, const Target& target,
                                         DType compute_dtype, const Lent& lent) {
  return std::make_unique<RowsPlan>(config, weights, target, compute_dtype, lent);
}

}  // namespace kineograph::engine::cpu

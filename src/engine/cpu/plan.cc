// The fused engine: GroupNorm statistics, then tiles that walk through all layers in cache.
#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>
#include <numeric>

#include "base/mapped_file.h"
#include "base/threads.h"
#include "engine/conditioning.h"
#include "engine/cpu/backward/backward.h"
#include "engine/cpu/call/statistics.h"
#include "engine/cpu/pack/pack.h"
#include "engine/cpu/schedule/schedule.h"
#include "engine/cpu/schedule/targets.h"
#include "engine/engine.h"
#include "kineograph/error.h"

namespace kineograph::engine::cpu {
namespace {

/// What a call needs beyond the model and the caller's memory, kept for the next one.
struct CallState {
  Call call;
  GroupNormTables group_norm;
  Conditioning conditioning;
  std::vector<float> modulations;
  std::vector<float> positioned;  ///< [layer][norm1, norm2][frame][I]: shifts with the positions of `positioned_frames`
  std::size_t positioned_frames = 0;
  std::vector<float> context_tokens;
};

Image image_of(const TensorView& view) {
  Image image;
  image.data = static_cast<std::byte*>(const_cast<void*>(view.data()));
  image.dtype = view.dtype();
  image.stride_n = view.strides()[0];
  image.stride_c = view.strides()[1];
  image.stride_h = view.strides()[2];
  image.stride_w = view.strides()[3];
  return image;
}

/// (B*F, V-1, H*W) of a discrete model.
Image classes_image(const TensorView& view, std::int64_t width) {
  Image image;
  image.data = static_cast<std::byte*>(const_cast<void*>(view.data()));
  image.dtype = view.dtype();
  image.stride_n = view.strides()[0];
  image.stride_c = view.strides()[1];
  image.stride_h = view.strides()[2] * width;
  image.stride_w = view.strides()[2];
  return image;
}

class CpuPlan : public Plan {
 public:
  CpuPlan(const TransformerTemporalConfig& config, const Weights& weights, const Target& target, DType compute_dtype)
      : target_(target),
        arithmetic_(compute_dtype == DType::bf16 ? target.bf16 : Arithmetic::f32),
        compute_dtype_(compute_dtype),
        weights_(weights),
        model_(pack_model(config, weights, arithmetic_, target.max_rows)) {}

  std::string_view isa() const noexcept override { return target_.name; }
  DType compute_dtype() const noexcept override { return compute_dtype_; }

  std::size_t workspace_bytes(const Inputs& inputs) const override {
    const int threads = thread_count(inputs.num_threads);
    Call call;
    describe(inputs, {}, call);
    const TileShape shape = tile_shape(call);
    const std::size_t sets = call.videos * (call.group_set_per_frame ? call.frames : 1);
    return static_cast<std::size_t>(threads) *
               workspace_sizes(model_, shape, call.context_tokens, call.context_dim).bytes() +
           sets * model_.channels * 3 * sizeof(float);
  }

  void forward(const Inputs& inputs, const MutableTensorView& output) const override {
    const int threads = thread_count(inputs.num_threads);
    const bool dropout = inputs.training_seed && model_.config.dropout > 0.0;
    const Pool<CallState>::Borrowed state(states_);
    describe(inputs, output, state->call);
    if (dropout && !state->call.processors.empty())
      throw ArgumentError("attention_processors", "none in training with dropout", "some",
                          "The engine reference takes them.");
    BackwardPlan* const training = dropout ? &trained() : nullptr;
    const auto body = [&] {
      Call& call = state->call;
      prepare(inputs, !dropout, threads, *state);
      if (dropout) return training->run_forward(call, threads);
      if (inputs.encoder_hidden_states && model_.config.has_attn2()) project_context(inputs, threads, *state);
      const TileShape shape = tile_shape(call);
      walk_tiles(call, target_, arithmetic_, shape, threads,
                 workspace_sizes(model_, shape, call.context_tokens, call.context_dim), workspaces_);
    };
    run_in_arena(threads, std::cref(body));  // a reference: std::function allocates for a lambda of this size
  }

  void backward(const Inputs& inputs, const TensorView& d_output, const Gradients& gradients) const override {
    const int threads = thread_count(inputs.num_threads);
    const Pool<CallState>::Borrowed state(states_);
    describe(inputs, gradients.hidden_states, state->call);
    BackwardPlan& training = trained();
    const auto body = [&] {
      prepare(inputs, false, threads, *state);
      training.run(state->call, state->conditioning, gradients,
                   model_.config.is_discrete() ? classes_image(d_output, inputs.width) : image_of(d_output), threads);
    };
    run_in_arena(threads, std::cref(body));
  }

 private:
  TileShape tile_shape(const Call& call) const {
    const std::size_t segment = call.tiles_may_span_videos ? call.videos * call.pixels : call.pixels;
    return choose_tile(target_.lanes, call.frames, segment);
  }

  /// Fills in place, so that a reused call keeps its memory.
  void describe(const Inputs& inputs, const MutableTensorView& output, Call& call) const {
    call.model = &model_;
    call.inputs = &inputs;
    call.videos = static_cast<std::size_t>(inputs.num_videos);
    call.frames = static_cast<std::size_t>(inputs.num_frames);
    call.height = static_cast<std::size_t>(inputs.height);
    call.width = static_cast<std::size_t>(inputs.width);
    call.pixels = call.height * call.width;
    call.group_set_per_frame = model_.config.group_norm_scope == GroupNormScope::frame;
    if (model_.config.is_discrete()) {
      call.output = output ? classes_image(output, inputs.width) : Image();
    } else {
      call.input = image_of(inputs.hidden_states);
      call.output = output ? image_of(output) : Image();
    }
    const bool processed = std::any_of(inputs.processors.begin(), inputs.processors.end(),
                                       [](const AttentionProcessor* processor) { return processor != nullptr; });
    call.processors.clear();
    if (processed) call.processors = inputs.processors;
    const bool conditioned = inputs.encoder_hidden_states && model_.config.has_attn2();
    call.context_tokens = conditioned ? static_cast<std::size_t>(inputs.encoder_hidden_states.size(1)) : 0;
    call.context_dim = conditioned ? static_cast<std::size_t>(inputs.encoder_hidden_states.size(2)) : 0;
    call.pixel_context = {};
    call.shared_context.clear();
    call.tiles_may_span_videos =
        model_.config.norm_type == NormType::layer_norm && !processed && !(conditioned && inputs.encoder_per_video);
  }

  /// Statistics and conditioning. `affine`: GroupNorm's tables contain its weight and bias.
  void prepare(const Inputs& inputs, bool affine, int threads, CallState& state) const {
    Call& call = state.call;
    if (!model_.config.is_discrete()) {
      compute_group_norm(call, target_, affine, threads, state.group_norm);
      call.group_mean = state.group_norm.mean.data();
      call.group_scale = state.group_norm.scale.data();
      call.group_shift = state.group_norm.shift.data();
    }
    modulate(inputs, state);
  }

  /// Weights packed for training, when they are first asked for. Called outside run_in_arena: a thread that waits for
  /// the lock keeps none of the arena's places, and whoever holds it waits for its own pieces of work only.
  BackwardPlan& trained() const {
    const std::lock_guard lock(trained_mutex_);
    if (!trained_) {
      check_unchanged();
      auto packed = std::make_unique<BackwardPlan>(weights_, model_, target_);
      check_unchanged();
      trained_ = std::move(packed);
    }
    return *trained_;
  }

  /// Throws IoError if weights are of a file that is not what it was: reading it might end the process.
  void check_unchanged() const {
    each_linear(weights_, [](const Linear& linear) {
      for (const TensorView* view : {&linear.weight, &linear.bias})
        if (*view) checkpoint::check_unchanged(view->data());
    });
  }

  /// Made for the frames that come, not for all that the table has.
  void add_positions(std::size_t frames, CallState& state) const {
    const bool some = std::any_of(model_.blocks.begin(), model_.blocks.end(),
                                  [](const PackedBlock& block) { return block.positions != nullptr; });
    if (!some || state.positioned_frames == frames) return;
    const std::size_t inner = model_.inner;
    state.positioned_frames = 0;
    state.positioned.resize(model_.blocks.size() * 2 * frames * inner);
    float* to = state.positioned.data();
    for (const PackedBlock& block : model_.blocks)
      for (std::size_t which = 0; which < 2; ++which)
        for (std::size_t f = 0; f < frames; ++f)
          for (std::size_t c = 0; c < inner; ++c)
            *to++ = (block.positions == nullptr ? 0.0f : block.positions[f * inner + c]) + block.norm_shift[which][c];
    state.positioned_frames = frames;
  }

  /// Scales, shifts and gates of every block and video.
  void modulate(const Inputs& inputs, CallState& state) const {
    Call& call = state.call;
    const std::size_t layers = model_.blocks.size(), inner = model_.inner, frames = call.frames;
    add_positions(frames, state);
    call.modulations.assign(layers * call.videos, {});
    for (std::size_t layer = 0; layer < layers; ++layer)
      for (std::size_t video = 0; video < call.videos; ++video)
        for (std::size_t which = 0; which < 3; ++which) {
          const PackedBlock& block = model_.blocks[layer];
          const bool positions = which < 2 && block.positions != nullptr;
          call.modulations[layer * call.videos + video].norm[which] = {
              block.norm_scale[which].data(),
              positions ? state.positioned.data() + (2 * layer + which) * frames * inner
                        : block.norm_shift[which].data(),
              positions ? inner : 0};
        }
    if (model_.config.norm_type == NormType::layer_norm) return;
    state.conditioning = compute_conditioning(model_.config, weights_, inputs);
    // Per block and video: three scales, three shifts a frame, two gates. Gates meet padded rows of products too.
    const std::size_t gate_rows = pad_channels(inner);
    const std::size_t each = 3 * inner + 3 * frames * inner + 2 * gate_rows;
    state.modulations.resize(layers * call.videos * each);
    for (std::size_t layer = 0; layer < layers; ++layer)
      for (std::size_t video = 0; video < call.videos; ++video) {
        const BlockConditioning& from = state.conditioning.at(layer, video);
        Modulation& to = call.modulations[layer * call.videos + video];
        float* scale = state.modulations.data() + (layer * call.videos + video) * each;
        float* shift = scale + 3 * inner;
        float* gate = shift + 3 * frames * inner;
        const auto set = [&](std::size_t which, const std::vector<double>& by, const std::vector<double>& add) {
          if (by.empty()) return;
          const Affine base = to.norm[which];
          // n (s + s') with the norm's own affine first: scale' = scale (1 + by), shift' = bias (1 + by) + add + pe.
          // The norm has no affine of its own when it is conditioned, or a plain one with no positions (norm3).
          const bool positions = base.frame_stride != 0;
          for (std::size_t c = 0; c < inner; ++c)
            scale[which * inner + c] = static_cast<float>(static_cast<double>(base.scale[c]) * (1.0 + by[c]));
          for (std::size_t f = 0; f < frames; ++f)
            for (std::size_t c = 0; c < inner; ++c) {
              const double own = static_cast<double>(base.shift[f * base.frame_stride + c]);
              shift[(which * frames + f) * inner + c] =
                  static_cast<float>(positions ? own + add[c] : own * (1.0 + by[c]) + add[c]);
            }
          to.norm[which] = {scale + which * inner, shift + which * frames * inner, inner};
        };
        set(0, from.norm1_scale, from.norm1_shift);
        set(1, from.norm2_scale, from.norm2_shift);
        set(2, from.norm3_scale, from.norm3_shift);
        const auto set_gate = [&](const std::vector<double>& values, float* out, const float*& slot) {
          if (values.empty()) return;
          for (std::size_t c = 0; c < inner; ++c) out[c] = static_cast<float>(values[c]);
          if (gate_rows > inner) out[inner] = 0.0f;
          slot = out;
        };
        set_gate(from.gate_attn1, gate, to.gate_attn1);
        set_gate(from.gate_ff, gate + gate_rows, to.gate_ff);
      }
  }

  void project_context(const Inputs& inputs, int threads, CallState& state) const {
    Call& call = state.call;
    const TensorView& encoder = inputs.encoder_hidden_states;
    if (!inputs.encoder_per_video) {
      call.pixel_context = {static_cast<const std::byte*>(encoder.data()), encoder.dtype(), encoder.strides()[0],
                            encoder.strides()[1], encoder.strides()[2]};
      return;
    }
    const std::size_t tokens = call.context_tokens, dim = call.context_dim, d = model_.head_dim;
    const Buffer<float> values = to_floats(encoder);
    call.shared_context.resize(model_.blocks.size() * call.videos);
    const std::size_t panel = 2 * target_.lanes, panels = (tokens + panel - 1) / panel;
    for_each_index(threads, call.shared_context.size(), [&](std::size_t i) {
      const PackedAttention& attention = model_.blocks[i / call.videos].attn[1];
      SharedContext& context = call.shared_context[i];
      context.keys.resize(model_.heads);
      context.values.resize(model_.heads);
      Buffer<std::uint32_t> operands(panels * pad_channels(dim) * panel);
      Buffer<float> projected(panels * attention.kv[0].rows * panel), rows(tokens * 2 * d);
      for (std::size_t head = 0; head < model_.heads; ++head) {
        const PackedLinear& kv = attention.kv[head];
        target_.project_tokens[static_cast<int>(arithmetic_)](kv, values.data() + i % call.videos * tokens * dim,
                                                              tokens, dim, operands.data(), projected.data());
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t r = 0; r < 2 * d; ++r)
            rows[t * 2 * d + r] = projected[(t / panel * kv.rows + r) * panel + t % panel];
        const auto extent = [](std::size_t n) { return static_cast<std::int64_t>(n); };
        const TensorView keys(rows.data(), DType::f32, {extent(tokens), extent(d)}, {extent(2 * d), 1});
        const TensorView transposed(rows.data() + d, DType::f32, {extent(d), extent(tokens)}, {1, extent(2 * d)});
        const PackOptions options{Arithmetic::f32, target_.max_rows};
        context.keys[head] = pack_rows({{keys, {}, 0, tokens}}, 0, d, options);
        context.values[head] = pack_rows({{transposed, {}, 0, d}}, 0, tokens, options);
      }
    });
  }

  const Target& target_;
  Arithmetic arithmetic_;
  DType compute_dtype_;
  Weights weights_;  // views; read again for conditioning and training
  PackedModel model_;
  mutable WorkspacePool workspaces_;
  mutable std::mutex trained_mutex_;
  mutable std::unique_ptr<BackwardPlan> trained_;
  mutable Pool<CallState> states_;
};

class CpuEngine : public Engine {
 public:
  std::string_view name() const noexcept override { return "cpu"; }

  std::vector<std::string> instruction_sets() const override {
    std::vector<std::string> names;
    for (const Target* target : targets()) names.emplace_back(target->name);
    return names;
  }

  double peak_gflops(const std::string& isa, DType compute_dtype, int threads) const override {
    const Target& target = find(isa);
    const Arithmetic arithmetic = compute_dtype == DType::bf16 ? target.bf16 : Arithmetic::f32;
    std::vector<double> rates(static_cast<std::size_t>(thread_count(threads)));
    run_at_once(static_cast<int>(rates.size()),
                [&](int i) { rates[static_cast<std::size_t>(i)] = target.peak_flops(arithmetic, 0.05); });
    return std::accumulate(rates.begin(), rates.end(), 0.0);
  }

  std::unique_ptr<const Plan> prepare(const ModelConfig& config, const Weights& weights,
                                      const PrepareOptions& options) const override {
    const auto* temporal = std::get_if<TransformerTemporalConfig>(&config);
    if (temporal == nullptr) return nullptr;
    return std::make_unique<CpuPlan>(*temporal, weights, find(options.isa), options.compute_dtype);
  }

 private:
  /// The instruction set of a name; the best one for none.
  static const Target& find(const std::string& isa) {
    std::string known;
    for (const Target* target : targets()) {
      if (isa.empty() || target->name == isa) return *target;
      known += (known.empty() ? "" : ", ") + std::string(target->name);
    }
    throw ArgumentError("instruction set", "one of " + known, isa);
  }
};

}  // namespace
}  // namespace kineograph::engine::cpu

namespace kineograph::engine {

const Engine* cpu_engine() {
  static const cpu::CpuEngine engine;
  return cpu::targets().empty() ? nullptr : &engine;
}

}  // namespace kineograph::engine

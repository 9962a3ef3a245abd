// A tile's walk forward through all layers, keeping what the way back needs, and back, adding to the gradients.
// Products are of bf16 pairs where the forward's are; everything else is f32.
#if defined(KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_
#endif

#include "engine/cpu/backward/discrete-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

class BackwardWalk : public BackwardDiscrete {
 public:
  BackwardWalk(const BackwardCall& backward, const Tile& tile, Team& team, Turns& turns, BackwardBuffers& buffers)
      : BackwardDiscrete(backward, tile, team, turns, buffers) {
    for (std::size_t run = 0; run < shape_.runs; ++run)
      d_runs_.push_back(LocateRun(call_, backward.d_output, backward.d_output, tile, run));
  }

  void Run() {
    Forward();
    if (backward_.forward_only) return Discrete() ? Classify() : ProjectOut();
    const std::size_t layers = trained_.blocks.size();
    if (Discrete())
      ClassifyBackward();
    else
      ProjectOutBackward();
    if (layers == 0 && !Discrete()) ProjectOutGradient();
    for (std::size_t layer = layers; layer-- > 0;) {
      const bool last = layer + 1 == layers;
      layer_ = layer;
      if (!last) UpToFeedForward();
      const bool leaves = last && !Discrete();
      FeedForwardBackward(leaves && backward_.gradients->weights.proj_out.weight);
      if (leaves) ProjectOutGradient();
      AttentionBackward(1);
      AttentionBackward(0);
    }
    if (Discrete())
      EmbedBackward();
    else
      EnterBackward();
  }

 private:
  void Forward() {
    const std::size_t layers = trained_.blocks.size();
    if (Discrete())
      Embed();
    else
      Enter();
    for (std::size_t layer = 0; layer < layers; ++layer) {
      layer_ = layer;
      UpToFeedForward();
      // The last feed-forward is computed on the way back, unless something stands in between.
      if (layer + 1 < layers || backward_.forward_only || Discrete()) FeedForward(WriteInputOf(layer + 1));
    }
  }

  /// The part of the layer that the way back needs again.
  void UpToFeedForward() {
    AttentionForward(0);
    AttentionForward(1);
  }

  // The input.

  void Enter() {
    const auto image = Write<Value::image>();
    const Rows x = WriteInputOf(0);
    Panels([&](PanelRange range, const Worker&) {
      DispatchPixels(call_.input.dtype, [&]<class T>(T) {
        EachVector(range, [&](std::size_t v, std::size_t frame, const PixelRun& run) KINEOGRAPH_ATTR {
          const std::size_t at = v % 2 * kLanes;
          for (std::size_t c = 0; c < model_.channels; ++c) {
            const Vec h = GatherNormalised<T>(call_, run, frame, c);
            hn::Store(hn::MulAdd(h, hn::Set(D(), model_.norm_weight[c]), hn::Set(D(), model_.norm_bias[c])), D(),
                      image(v / 2) + c * kPanel + at);
          }
        });
      });
      ProductOf<Sum::store>(trained_.proj_in.forward, image, x, range);
    });
  }

  void EnterBackward() {
    const std::size_t channels = model_.channels;
    const WeightGradients& to = backward_.gradients->weights;
    const auto image = Read<Value::image>();
    const auto d_x = Read<Value::d_x>();
    const auto d_image = Write<Value::d_image>();
    const Turned turned = Turn(Value::image);
    Panels([&](PanelRange range, const Worker&) {
      if (to.proj_in.weight) Transpose(image, channels, panels_, range);
      ProductOf<Sum::store>(trained_.proj_in.transposed, d_x, d_image, range);
    });
    AddGradients(turned, {Whole(to.proj_in, channels, d_x)}, inner_, channels, panels_);
    AddGroupNormSums(d_image);
    if (backward_.d_input)
      DispatchPixels(backward_.d_input.dtype, [&]<class T>(T) {
        Panels([&](PanelRange range, const Worker&) { ScatterInput<T>(d_image, range); });
      });
  }

  /// Sums of GroupNorm's output gradient, a set of C a video or a frame.
  void AddGroupNormSums(const Rows& d_image) {
    const std::size_t channels = model_.channels;
    NormSums& sums = backward_.sums->group_norm;
    AddToSums(channels, [&](std::size_t begin, std::size_t end) {
      DispatchPixels(call_.input.dtype, [&]<class T>(T) {
        const D d;
        for (std::size_t c = begin; c < end; ++c)
          for (std::size_t frame = 0, v = 0; frame < shape_.frames; ++frame) {
            const std::size_t set = call_.group_set_per_frame ? video_ * call_.frames + frame : video_;
            Vec along = hn::Zero(d), plain = hn::Zero(d);
            for (std::size_t run = 0; run < shape_.runs; ++run, ++v) {
              const Vec d_n = hn::Load(d, d_image(v / 2) + c * kPanel + v % 2 * kLanes);
              along = hn::MulAdd(d_n, GatherNormalised<T>(call_, runs_[run], frame, c), along);
              plain = hn::Add(plain, d_n);
            }
            sums.along[set * channels + c] += static_cast<double>(SumOf(along));
            sums.plain[set * channels + c] += static_cast<double>(SumOf(plain));
          }
      });
    });
  }

  /// d_image -> the memory of the input's gradient, which finish_input completes.
  template <class T>
  void ScatterInput(const Rows& d_image, PanelRange range) {
    for (std::size_t v = 2 * range.begin; v < std::min(2 * range.end, shape_.vectors()); ++v) {
      const PixelRun& run = runs_[v % shape_.runs];
      auto* out = reinterpret_cast<T*>(backward_.d_input.data) +
                  static_cast<std::int64_t>(v / shape_.runs) * backward_.d_input.stride_n;
      for (std::size_t c = 0; c < model_.channels; ++c, out += backward_.d_input.stride_c) {
        const float* from = d_image(v / 2) + c * kPanel + v % 2 * kLanes;
        if (run.whole)
          StreamPixels(hn::Load(D(), from), out + run.output[0]);
        else
          for (std::size_t lane = 0; lane < run.valid; ++lane) out[run.output[lane]] = from_float<T>(from[lane]);
      }
    }
  }

  // The output.

  void ProjectOut() {
    const auto last = Read<Value::last_output>();
    const auto sample = Write<Value::sample>();
    Product<Sum::store>(trained_.proj_out.forward, last, sample, panels_);
    DispatchPixels(call_.input.dtype, [&]<class In>(In) {
      DispatchPixels(call_.output.dtype, [&]<class Out>(Out) {
        Panels([&](PanelRange range, const Worker&) {
          for (std::size_t v = 2 * range.begin; v < std::min(2 * range.end, shape_.vectors()); ++v)
            for (std::size_t c = 0; c < model_.channels; ++c)
              ScatterResidual<In, Out>(call_, runs_[v % shape_.runs], v / shape_.runs, c,
                                       hn::Load(D(), sample(v / 2) + c * kPanel + v % 2 * kLanes));
        });
      });
    });
  }

  void ProjectOutBackward() {
    const auto d_sample = Write<Value::d_sample>();
    const auto d_x = Write<Value::d_x>();
    DispatchPixels(backward_.d_output.dtype, [&]<class T>(T) {
      Panels([&](PanelRange range, const Worker&) { GatherGradient<T>(d_sample, range); });
    });
    Product<Sum::store>(trained_.proj_out.transposed, d_sample, d_x, panels_);
  }

  /// The loss's gradient by the output: zeros where there is no pixel.
  template <class T>
  void GatherGradient(const Rows& to, PanelRange range) {
    const Image& image = backward_.d_output;
    const std::size_t channels = model_.channels;
    for (std::size_t v = 2 * range.begin; v < 2 * range.end; ++v) {
      float* out = to(v / 2) + v % 2 * kLanes;
      const std::size_t real = std::min(v, shape_.vectors() - 1);
      const PixelRun& run = d_runs_[real % shape_.runs];
      const auto* from =
          reinterpret_cast<const T*>(image.data) + static_cast<std::int64_t>(real / shape_.runs) * image.stride_n;
      for (std::size_t c = 0; c < channels; ++c, from += image.stride_c) {
        HWY_ALIGN float lanes[kLanes] = {};
        if (v < shape_.vectors() && run.whole) {
          hn::Store(LoadPixels(from + run.input[0]), D(), lanes);
        } else if (v < shape_.vectors()) {
          for (std::size_t lane = 0; lane < run.valid; ++lane) lanes[lane] = to_float(from[run.input[lane]]);
        }
        hn::Store(hn::Load(D(), lanes), D(), out + c * kPanel);
      }
      if (channels % 2 == 1) hn::Store(hn::Zero(D()), D(), out + channels * kPanel);
    }
  }

  /// Of proj_out's weights, once the last feed-forward's branch is there; without blocks, at once.
  void ProjectOutGradient() {
    const auto& to = backward_.gradients->weights.proj_out;
    const auto d_sample = Read<Value::d_sample>();
    const Turned turned = Turn(Value::last_output);
    if (to.weight && trained_.blocks.empty()) {
      Transpose(Read<Value::last_output>(), inner_, panels_);
    } else if (to.weight) {
      const auto x2 = Read<Value::x2>();
      const auto branch = Read<Value::branch>();
      const auto last = Write<Value::last_output>();
      Panels([&](PanelRange range, const Worker&) {
        AddGated(x2, Modulate(layer_).gate_ff, branch, last, range);
        Transpose(last, inner_, panels_, range);
      });
    }
    AddGradients(turned, {Whole(to, inner_, d_sample)}, model_.channels, inner_, panels_);
  }

  std::vector<PixelRun> d_runs_;  ///< in the output's gradient
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

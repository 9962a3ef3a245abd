// A tile's walk forward through all layers, keeping what the way back needs, and back, adding to the gradients.
// Products are of bf16 pairs where the forward's are; everything else is f32.
#if defined(KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_WALK_INL_H_
#endif

#include <cmath>
#include <optional>

#include "engine/cpu/backward/tile-inl.h"
#include "engine/cpu/kernels/activation-inl.h"
#include "engine/cpu/kernels/attention_backward-inl.h"
#include "engine/cpu/kernels/norm_backward-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

class BackwardWalk : public BackwardTile {
 public:
  using BackwardTile::BackwardTile;

  void Run() {
    const std::size_t layers = trained_.blocks.size();
    Enter();
    for (std::size_t layer = 0; layer < layers; ++layer) {
      AttentionForward(layer, 0);
      AttentionForward(layer, 1);
      // The last feed-forward is computed on the way back, unless something stands in between.
      if (layer + 1 < layers || backward_.forward_only || Discrete()) {
        FeedForward(layer, InputOf(layer + 1));
      }
    }
    if (backward_.forward_only) return Discrete() ? Classify() : ProjectOut();
    if (Discrete())
      ClassifyBackward();
    else
      ProjectOutBackward();
    if (layers == 0 && !Discrete()) ProjectOutGradient();
    for (std::size_t layer = layers; layer-- > 0;) {
      if (layer + 1 < layers) {
        AttentionForward(layer, 0);
        AttentionForward(layer, 1);
      }
      FeedForwardBackward(layer);
      if (layer + 1 == layers && !Discrete()) ProjectOutGradient();
      AttentionBackward(layer, 1);
      AttentionBackward(layer, 0);
    }
    if (Discrete())
      EmbedBackward();
    else
      EnterBackward();
  }

 private:
  // The input.

  void Enter() {
    if (Discrete()) return Embed();
    const Rows image = Over(at_.image, model_.channels);
    Panels(panels_, [&](PanelRange range, Workspace&) {
      DispatchPixels(call_.input.dtype, [&]<class T>(T) {
        EachVector(range, [&](std::size_t v, std::size_t frame, const PixelRun& g) KINEOGRAPH_ATTR {
          const std::size_t at = v % 2 * kLanes;
          for (std::size_t c = 0; c < model_.channels; ++c) {
            const Vec h = GatherNormalised<T>(call_, g, frame, c);
            hn::Store(hn::MulAdd(h, hn::Set(D(), model_.norm_weight[c]), hn::Set(D(), model_.norm_bias[c])), D(),
                      image(v / 2) + c * kPanel + at);
          }
        });
      });
      ProductOf<Sum::store>(trained_.proj_in.forward, image, InputOf(0), range);
    });
  }

  /// visit(vector, frame, run); past the last vector the last one is repeated.
  template <class Visit>
  void EachVector(PanelRange range, Visit&& visit) {
    for (std::size_t v = 2 * range.begin; v < 2 * range.end; ++v) {
      const std::size_t real = std::min(v, shape_.vectors() - 1);
      visit(v, real / shape_.runs, runs_[real % shape_.runs]);
    }
  }

  /// The loss's gradient by the output: zeros where there is no pixel.
  template <class T>
  void GatherGradient(const Rows& to, std::size_t channels) {
    Panels(panels_, [&](PanelRange range, Workspace&) {
      for (std::size_t v = 2 * range.begin; v < 2 * range.end; ++v) {
        float* out = to(v / 2) + v % 2 * kLanes;
        const std::size_t real = std::min(v, shape_.vectors() - 1);
        const PixelRun& g = d_runs_[real % shape_.runs];
        const auto* from = reinterpret_cast<const T*>(backward_.d_output.data) +
                           static_cast<std::int64_t>(real / shape_.runs) * backward_.d_output.stride_n;
        for (std::size_t c = 0; c < channels; ++c, from += backward_.d_output.stride_c) {
          HWY_ALIGN float lanes[kLanes] = {};
          if (v < shape_.vectors() && g.whole) {
            hn::Store(LoadPixels(from + g.input[0]), D(), lanes);
          } else if (v < shape_.vectors()) {
            for (std::size_t lane = 0; lane < g.valid; ++lane) lanes[lane] = to_float(from[g.input[lane]]);
          }
          hn::Store(hn::Load(D(), lanes), D(), out + c * kPanel);
        }
        if (channels % 2 == 1) hn::Store(hn::Zero(D()), D(), out + channels * kPanel);
      }
    });
  }

  void EnterBackward() {
    const std::size_t channels = model_.channels;
    const WeightGradients& to = backward_.gradients->weights;
    const Rows d_image = Over(at_.d_image, channels);
    Panels(panels_, [&](PanelRange range, Workspace&) {
      if (to.proj_in.weight) Transpose(Over(at_.image, channels), channels, panels_, range);
      ProductOf<Sum::store>(trained_.proj_in.transposed, At(at_.d_x), d_image, range);
    });
    AddGradients({Whole(to.proj_in, channels, At(at_.d_x))}, inner_, channels, panels_);
    // Sums of GroupNorm, a set of C a video or a frame.
    NormSums& sums = backward_.sums->group_norm;
    AddToSums(channels, [&](std::size_t begin, std::size_t end) {
      DispatchPixels(call_.input.dtype, [&]<class T>(T) {
        const D d;
        for (std::size_t c = begin; c < end; ++c)
          for (std::size_t frame = 0, v = 0; frame < shape_.frames; ++frame) {
            const std::size_t set = call_.group_set_per_frame ? video_ * call_.frames + frame : video_;
            Vec along = hn::Zero(d), plain = hn::Zero(d);
            for (std::size_t g = 0; g < shape_.runs; ++g, ++v) {
              const Vec d_n = hn::Load(d, d_image(v / 2) + c * kPanel + v % 2 * kLanes);
              along = hn::MulAdd(d_n, GatherNormalised<T>(call_, runs_[g], frame, c), along);
              plain = hn::Add(plain, d_n);
            }
            sums.along[set * channels + c] += static_cast<double>(SumOf(along));
            sums.plain[set * channels + c] += static_cast<double>(SumOf(plain));
          }
      });
    });
    if (call_.output.data == nullptr) return;
    DispatchPixels(call_.output.dtype, [&]<class T>(T) {
      Panels(panels_, [&](PanelRange range, Workspace&) {
        for (std::size_t v = 2 * range.begin; v < std::min(2 * range.end, shape_.vectors()); ++v) {
          const PixelRun& g = runs_[v % shape_.runs];
          auto* out = reinterpret_cast<T*>(call_.output.data) +
                      static_cast<std::int64_t>(v / shape_.runs) * call_.output.stride_n;
          for (std::size_t c = 0; c < channels; ++c, out += call_.output.stride_c) {
            const float* from = d_image(v / 2) + c * kPanel + v % 2 * kLanes;
            if (g.whole)
              StreamPixels(hn::Load(D(), from), out + g.output[0]);
            else
              for (std::size_t lane = 0; lane < g.valid; ++lane) out[g.output[lane]] = from_float<T>(from[lane]);
          }
        }
      });
    });
  }

  // The output.

  /// The last block's output: where d_n will be, unless that comes before it is read for the last time.
  Rows Last() const { return Discrete() ? At(at_.last) : At(at_.d_n); }

  /// The input of a block; past the last one, the output of them all.
  Rows InputOf(std::size_t layer) const { return layer < at_.x.size() ? At(at_.x[layer]) : Last(); }

  void ProjectOut() {
    Product<Sum::store>(trained_.proj_out.forward, Last(), Over(at_.d_image, model_.channels), panels_);
    DispatchPixels(call_.input.dtype, [&]<class In>(In) {
      DispatchPixels(call_.output.dtype, [&]<class Out>(Out) {
        Panels(panels_, [&](PanelRange range, Workspace&) {
          for (std::size_t v = 2 * range.begin; v < std::min(2 * range.end, shape_.vectors()); ++v)
            for (std::size_t c = 0; c < model_.channels; ++c)
              ScatterResidual<In, Out>(
                  call_, runs_[v % shape_.runs], v / shape_.runs, c,
                  hn::Load(D(), Over(at_.d_image, model_.channels)(v / 2) + c * kPanel + v % 2 * kLanes));
        });
      });
    });
  }

  void ProjectOutBackward() {
    const Rows d_image = Over(at_.d_image, model_.channels);
    DispatchPixels(backward_.d_output.dtype, [&]<class T>(T) { GatherGradient<T>(d_image, model_.channels); });
    Product<Sum::store>(trained_.proj_out.transposed, d_image, At(at_.d_x), panels_);
  }

  /// Of proj_out's weights, once the last feed-forward's branch is in at_.y; without blocks, at once.
  void ProjectOutGradient() {
    const auto& to = backward_.gradients->weights.proj_out;
    const std::size_t layers = trained_.blocks.size();
    if (to.weight) {
      Panels(panels_, [&](PanelRange range, Workspace&) {
        if (layers != 0) AddGated(At(at_.x2), Modulate(layers - 1).gate_ff, Last(), range);
        Transpose(Last(), inner_, panels_, range);
      });
    }
    AddGradients({Whole(to, inner_, Over(at_.d_image, model_.channels))}, model_.channels, inner_, panels_);
  }

  // Blocks.

  void Normalise(std::size_t layer, std::size_t which, const Rows& x, const Rows& n, PanelRange range) {
    const Affine& affine = Modulate(layer).norm[which];
    for (std::size_t panel = range.begin; panel < range.end; ++panel) {
      const auto shift = [&](std::size_t slot) {
        return affine.shift + shape_.frame_of(2 * panel + slot) * affine.frame_stride;
      };
      LayerNormPanel<Arithmetic::f32>(x(panel), inner_, model_.blocks[layer].norm_epsilon[which], affine.scale,
                                      shift(0), shift(1), reinterpret_cast<std::uint32_t*>(n(panel)));
    }
  }

  /// d_x += the gradient through n = norm(x), of d_n in at_.d_n; and the sums that its parameters need.
  void NormaliseBackward(std::size_t layer, std::size_t which, const Rows& x) {
    const Rows d_n = At(at_.d_n), d_x = At(at_.d_x);
    float* moments = at_.moments.data();
    Panels(panels_, [&](PanelRange range, Workspace&) {
      for (std::size_t panel = range.begin; panel < range.end; ++panel)
        LayerNormBackwardPanel(x(panel), d_n(panel), inner_, model_.blocks[layer].norm_epsilon[which],
                               Modulate(layer).norm[which].scale, d_x(panel), moments + panel * 2 * kPanel);
    });
    AddNormSums(backward_.sums->norms[(layer * 3 + which) * call_.videos + video_], x);
  }

  void AddNormSums(NormSums& sums, const Rows& x) {
    if (sums.along.empty()) return;
    const Rows d_n = At(at_.d_n);
    const float* moments = at_.moments.data();
    AddToSums(inner_, [&](std::size_t begin, std::size_t end) {
      const D d;
      for (std::size_t c = begin; c < end; ++c) {
        Vec along = hn::Zero(d), plain = hn::Zero(d);
        for (std::size_t v = 0; v < 2 * panels_; ++v) {
          const std::size_t at = c * kPanel + v % 2 * kLanes;
          const float* m = moments + v / 2 * 2 * kPanel + v % 2 * kLanes;
          const Vec h = hn::Mul(hn::Sub(hn::Load(d, x(v / 2) + at), hn::Load(d, m)), hn::Load(d, m + kPanel));
          const Vec g = hn::Load(d, d_n(v / 2) + at);
          along = hn::MulAdd(g, h, along);
          plain = hn::Add(plain, g);
        }
        sums.along[c] += static_cast<double>(SumOf(along));
        sums.plain[c] += static_cast<double>(SumOf(plain));
      }
    });
  }

  /// to = from + gate * y
  void AddGated(const Rows& from, const float* gate, const Rows& to, PanelRange range) {
    const Rows y = At(at_.y);
    const D d;
    for (std::size_t panel = range.begin; panel < range.end; ++panel)
      for (std::size_t i = 0; i < 2 * pad_channels(inner_); ++i) {
        const Vec factor = hn::Set(d, gate == nullptr ? 1.0f : gate[i / 2]);
        hn::Store(hn::MulAdd(factor, hn::Load(d, y(panel) + i * kLanes), hn::Load(d, from(panel) + i * kLanes)), d,
                  to(panel) + i * kLanes);
      }
  }

  /// d_y = gate * d_x
  void ScaleByGate(const float* gate, PanelRange range) {
    const Rows d_x = At(at_.d_x), d_y = At(at_.d_y);
    const D d;
    for (std::size_t panel = range.begin; panel < range.end; ++panel)
      for (std::size_t i = 0; i < 2 * pad_channels(inner_); ++i)
        hn::Store(hn::Mul(hn::Set(d, gate == nullptr ? 1.0f : gate[i / 2]), hn::Load(d, d_x(panel) + i * kLanes)), d,
                  d_y(panel) + i * kLanes);
  }

  /// The gate's own gradient: the tokens' sum of d_x y.
  void AddGateSums(std::vector<double>& sums) {
    if (sums.empty()) return;
    const Rows d_x = At(at_.d_x), y = At(at_.y);
    AddToSums(inner_, [&](std::size_t begin, std::size_t end) {
      const D d;
      for (std::size_t c = begin; c < end; ++c) {
        Vec sum = hn::Zero(d);
        for (std::size_t panel = 0; panel < panels_; ++panel)
          for (std::size_t v = 0; v < kPanel; v += kLanes)
            sum = hn::MulAdd(hn::Load(d, d_x(panel) + c * kPanel + v), hn::Load(d, y(panel) + c * kPanel + v), sum);
        sums[c] += static_cast<double>(SumOf(sum));
      }
    });
  }

  /// Empty where nobody wants it, or there is no gate.
  std::vector<double>& GateSums(std::size_t layer, std::size_t which) const {
    return backward_.sums->gates[(layer * 2 + which) * call_.videos + video_];
  }

  HeadRows Head(const Rows& rows, std::size_t head, std::size_t run) const {
    return {rows.data + head * model_.head_dim * kPanel, rows.panel, shape_.runs, run};
  }
  HeadGradient HeadTo(const Rows& rows, std::size_t head, std::size_t run) const {
    return {rows.data + head * model_.head_dim * kPanel, rows.panel, shape_.runs, run};
  }
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(model_.head_dim)); }

  /// x (the block's input, or x1) -> x1, or x2. Without this attention: a copy.
  void AttentionForward(std::size_t layer, std::size_t which) {
    const Rows from = which == 0 ? InputOf(layer) : At(at_.x1), to = At(which == 0 ? at_.x1 : at_.x2);
    if (!HasAttention(layer, which)) {
      Panels(panels_,
             [&](PanelRange range, Workspace&) { std::copy(from(range.begin), from(range.end), to(range.begin)); });
      return;
    }
    const TrainedBlock& block = trained_.blocks[layer];
    const Rows n = At(at_.n[which]), q = At(at_.q[which]), k = At(at_.k[which]), v = At(at_.v[which]);
    const Rows attended = At(at_.attended[which]);
    const bool conditioned = Conditioned(which);
    Panels(panels_, [&](PanelRange range, Workspace&) {
      Normalise(layer, which, from, n, range);
      const Operand operand = AsOperand(n, pad_channels(inner_), range);
      ProductOf<Sum::store>(block.q[which].forward, operand, q, range);
      if (conditioned) return;
      ProductOf<Sum::store>(block.k[which].forward, operand, k, range);
      ProductOf<Sum::store>(block.v[which].forward, operand, v, range);
    });
    if (conditioned) {
      GatherContext();
      const Rows context = Over(at_.context, call_.context_dim);
      Panels(KeyPanels(which), [&](PanelRange range, Workspace&) {
        const Operand operand = AsOperand(context, pad_channels(call_.context_dim), range);
        ProductOf<Sum::store>(block.k[which].forward, operand, k, range);
        ProductOf<Sum::store>(block.v[which].forward, operand, v, range);
      });
    }
    team_.for_each(model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      for (std::size_t head = begin; head < end; ++head)
        for (std::size_t g = 0; g < shape_.runs; ++g)
          AttendHead(Head(q, head, g), call_.frames, Head(k, head, g), Head(v, head, g), Keys(which), model_.head_dim,
                     Scale(), mine.scores.data(), HeadTo(attended, head, g));
    });
    Panels(panels_, [&](PanelRange range, Workspace&) {
      AttentionOutput(layer, which, range);
      AddGated(from, which == 0 ? Modulate(layer).gate_attn1 : nullptr, to, range);
    });
  }

  /// y = dropout(to_out(attended))
  void AttentionOutput(std::size_t layer, std::size_t which, PanelRange range) {
    ProductOf<Sum::store>(trained_.blocks[layer].out[which].forward, At(at_.attended[which]), At(at_.y), range);
    Drop(layer, which == 0 ? DropoutSite::attn1 : DropoutSite::attn2, 0, inner_, At(at_.y), range);
  }

  void AttentionBackward(std::size_t layer, std::size_t which) {
    if (!HasAttention(layer, which)) return;
    const TrainedBlock& block = trained_.blocks[layer];
    const BlockOf<MutableTensorView>& weights = backward_.gradients->weights.blocks[layer];
    const AttentionOf<MutableTensorView>& to = which == 0 ? weights.attn1 : weights.attn2;
    const Rows n = At(at_.n[which]), q = At(at_.q[which]), k = At(at_.k[which]), v = At(at_.v[which]);
    const Rows attended = At(at_.attended[which]), d_y = At(at_.d_y), d_n = At(at_.d_n);
    // Gradients take the place of what they are the gradients of.
    const Rows d_attended = At(at_.y), d_q = d_attended, d_k = k, d_v = v;
    const float* gate = which == 0 ? Modulate(layer).gate_attn1 : nullptr;
    if (which == 0 && !GateSums(layer, 0).empty()) {
      Panels(panels_, [&](PanelRange range, Workspace&) { AttentionOutput(layer, which, range); });  // y again
      AddGateSums(GateSums(layer, 0));
    }
    Panels(panels_, [&](PanelRange range, Workspace&) {
      ScaleByGate(gate, range);
      Drop(layer, which == 0 ? DropoutSite::attn1 : DropoutSite::attn2, 0, inner_, d_y, range);
      if (to.to_out.weight) Transpose(attended, inner_, panels_, range);
      ProductOf<Sum::store>(block.out[which].transposed, d_y, d_attended, range);
    });
    AddGradients({Whole(to.to_out, inner_, d_y)}, inner_, inner_, panels_);
    team_.for_each(model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      for (std::size_t head = begin; head < end; ++head)
        for (std::size_t g = 0; g < shape_.runs; ++g)
          AttendHeadBackward(Head(q, head, g), call_.frames, Head(k, head, g), Head(v, head, g), Keys(which),
                             model_.head_dim, Scale(), Head(d_attended, head, g), HeadTo(d_q, head, g),
                             HeadTo(d_k, head, g), HeadTo(d_v, head, g), mine.scores.data());
    });
    // A last half panel that is no token's still holds keys and values.
    if (Keys(which) * shape_.runs % 2 == 1) {
      ClearLastHalf(d_k, KeyPanels(which));
      ClearLastHalf(d_v, KeyPanels(which));
    }
    const bool conditioned = Conditioned(which);
    const std::size_t width = conditioned ? call_.context_dim : inner_, key_panels = KeyPanels(which);
    const bool transpose = to.to_q.weight || (!conditioned && (to.to_k.weight || to.to_v.weight));
    Panels(panels_, [&](PanelRange range, Workspace&) {
      if (transpose) Transpose(n, inner_, panels_, range);
      ProductOf<Sum::store>(block.q[which].transposed, d_q, d_n, range);
      if (conditioned) return;
      ProductOf<Sum::add>(block.k[which].transposed, d_k, d_n, range);
      ProductOf<Sum::add>(block.v[which].transposed, d_v, d_n, range);
    });
    if (!conditioned) {
      AddGradients({Whole(to.to_q, inner_, d_q), Whole(to.to_k, inner_, d_k), Whole(to.to_v, inner_, d_v)}, inner_,
                   inner_, panels_);
    } else {
      AddGradients({Whole(to.to_q, inner_, d_q)}, inner_, inner_, panels_);
      if (to.to_k.weight || to.to_v.weight) Transpose(Over(at_.context, width), width, key_panels);
      AddGradients({Whole(to.to_k, width, d_k), Whole(to.to_v, width, d_v)}, inner_, width, key_panels);
    }
    if (conditioned && backward_.gradients->encoder_hidden_states) {
      const Rows d_context = Over(at_.d_context, width);
      if (layer + 1 == trained_.blocks.size())
        Product<Sum::store>(block.k[which].transposed, d_k, d_context, key_panels);
      else
        Product<Sum::add>(block.k[which].transposed, d_k, d_context, key_panels);
      Product<Sum::add>(block.v[which].transposed, d_v, d_context, key_panels);
      if (layer == 0) ScatterContext(d_context);
    }
    NormaliseBackward(layer, which, which == 0 ? InputOf(layer) : At(at_.x1));
  }

  void ClearLastHalf(const Rows& rows, std::size_t panels) {
    float* last = rows(panels - 1) + kLanes;
    for (std::size_t c = 0; c < pad_channels(inner_); ++c) hn::Store(hn::Zero(D()), D(), last + c * kPanel);
  }

  /// Row of a conditioning for one lane, or -1 for a lane without a pixel.
  std::int64_t ContextRow(std::size_t run, std::size_t lane) const {
    if (lane >= runs_[run].valid) return -1;
    return static_cast<std::int64_t>(call_.inputs->encoder_per_video ? video_ : tile_.first + run * kLanes + lane);
  }

  void GatherContext() {
    const TensorView& encoder = call_.inputs->encoder_hidden_states;
    const std::size_t vectors = call_.context_tokens * shape_.runs;
    const Rows context = Over(at_.context, call_.context_dim);
    Panels((vectors + 1) / 2, [&](PanelRange range, Workspace&) {
      DispatchPixels(encoder.dtype(), [&]<class T>(T) {
        for (std::size_t v = 2 * range.begin; v < 2 * range.end; ++v)
          for (std::size_t lane = 0; lane < kLanes; ++lane) {
            float* to = context(v / 2) + v % 2 * kLanes + lane;
            const std::int64_t row = v < vectors ? ContextRow(v % shape_.runs, lane) : -1;
            for (std::size_t c = 0; c < pad_channels(call_.context_dim); ++c)
              to[c * kPanel] =
                  row < 0 || c >= call_.context_dim
                      ? 0.0f
                      : to_float(static_cast<const T*>(
                            encoder.data())[row * encoder.strides()[0] +
                                            static_cast<std::int64_t>(v / shape_.runs) * encoder.strides()[1] +
                                            static_cast<std::int64_t>(c) * encoder.strides()[2]]);
          }
      });
    });
  }

  /// The conditioning's gradient: a video's own is summed, by one thread a channel; a pixel's is this tile's alone.
  void ScatterContext(const Rows& d_context) {
    const MutableTensorView& to = backward_.gradients->encoder_hidden_states;
    const std::size_t tokens = call_.context_tokens, width = call_.context_dim;
    const auto each = [&](std::size_t begin, std::size_t end, auto&& visit) {
      for (std::size_t c = begin; c < end; ++c)
        for (std::size_t v = 0; v < tokens * shape_.runs; ++v)
          for (std::size_t lane = 0; lane < runs_[v % shape_.runs].valid; ++lane)
            visit(ContextRow(v % shape_.runs, lane), static_cast<std::int64_t>(v / shape_.runs),
                  static_cast<std::int64_t>(c), d_context(v / 2)[c * kPanel + v % 2 * kLanes + lane]);
    };
    AddToSums(width, [&](std::size_t begin, std::size_t end) {
      if (call_.inputs->encoder_per_video) {
        double* sums = backward_.sums->encoder.data();
        each(begin, end, [&](std::int64_t row, std::int64_t token, std::int64_t c, float value) {
          sums[(row * static_cast<std::int64_t>(tokens) + token) * static_cast<std::int64_t>(width) + c] +=
              static_cast<double>(value);
        });
        return;
      }
      DispatchPixels(to.dtype(), [&]<class T>(T) {
        each(begin, end, [&](std::int64_t row, std::int64_t token, std::int64_t c, float value) {
          static_cast<T*>(to.data())[row * to.strides()[0] + token * to.strides()[1] + c * to.strides()[2]] =
              from_float<T>(value);
        });
      });
    });
  }

  // The feed-forward, a chunk of hidden columns at a time.

  // Panels lie as far apart as those of the widest chunk: a thread may be a chunk ahead of the other.
  Rows Projected() const { return {at_.projected.data(), trained_.chunk * (trained_.gated ? 2 : 1) * kPanel}; }
  Rows Hidden(Buffer<float>& buffer) const { return Over(buffer, trained_.chunk); }

  /// A chunk of n3, projected and hidden, and (output) of y = ff(n3) without its gate.
  void ChunkForward(std::size_t layer, const TrainedChunk& chunk, bool output, PanelRange range) {
    if (chunk.first == 0) Normalise(layer, 2, At(at_.x2), At(at_.n[2]), range);
    ProductOf<Sum::store>(chunk.in, At(at_.n[2]), Projected(), range);
    Activate(chunk, range);
    const Rows hidden = Hidden(at_.hidden);
    Drop(layer, DropoutSite::feed_forward, chunk.first, chunk.count, hidden, range);
    if (output) ProductPart(chunk.out.forward, chunk, hidden, At(at_.y), range);
  }

  /// The first chunk's products are stored, the others' added.
  void ProductPart(const PackedLinear& linear, const TrainedChunk& chunk, const Rows& x, const Rows& y,
                   PanelRange range) {
    if (chunk.first == 0)
      ProductOf<Sum::store>(linear, x, y, range);
    else
      ProductOf<Sum::add>(linear, x, y, range);
  }

  /// to = x2 + gate * ff(norm(x2))
  void FeedForward(std::size_t layer, const Rows& to) {
    Panels(panels_, [&](PanelRange range, Workspace&) {
      for (const TrainedChunk& chunk : trained_.blocks[layer].chunks) ChunkForward(layer, chunk, true, range);
      AddGated(At(at_.x2), Modulate(layer).gate_ff, to, range);
    });
  }

  void FeedForwardBackward(std::size_t layer) {
    const auto& to = backward_.gradients->weights.blocks[layer];
    std::vector<double>& gate_sums = GateSums(layer, 1);
    const bool last = layer + 1 == trained_.blocks.size();
    const bool output = !gate_sums.empty() || (last && !Discrete() && backward_.gradients->weights.proj_out.weight);
    for (const TrainedChunk& chunk : trained_.blocks[layer].chunks) {
      Panels(panels_, [&](PanelRange range, Workspace&) {
        if (chunk.first == 0) ScaleByGate(Modulate(layer).gate_ff, range);
        ChunkForward(layer, chunk, output, range);
        if (to.ff_out.weight) Transpose(Hidden(at_.hidden), chunk.count, panels_, range);
      });
      ChunkBackward(layer, chunk);
    }
    AddGateSums(gate_sums);
    AddGradients({{nullptr, 0, Floats(to.ff_out.bias), At(at_.d_y)}}, inner_, 0, panels_);
    NormaliseBackward(layer, 2, At(at_.x2));
  }

  void Activate(const TrainedChunk& chunk, PanelRange range) {
    EachHidden(chunk, range,
               [&]<Activation kActivation>(const float* value, const float* gate, std::size_t i, float* hidden,
                                           float*) KINEOGRAPH_ATTR {
                 const D d;
                 const Vec v = hn::Load(d, value + i);
                 if constexpr (is_gated(kActivation))
                   hn::Store(hn::Mul(v, ActivateWithSlope<kActivation>(hn::Load(d, gate + i)).value), d, hidden + i);
                 else
                   hn::Store(ActivateWithSlope<kActivation>(v).value, d, hidden + i);
               });
  }

  /// projected becomes its own gradient.
  void ActivateBackward(const TrainedChunk& chunk, PanelRange range) {
    EachHidden(chunk, range,
               [&]<Activation kActivation>(float* value, float* gate, std::size_t i, float*, float* d_hidden)
                   KINEOGRAPH_ATTR {
                     const D d;
                     const Vec v = hn::Load(d, value + i), d_h = hn::Load(d, d_hidden + i);
                     if constexpr (is_gated(kActivation)) {
                       const Activated a = ActivateWithSlope<kActivation>(hn::Load(d, gate + i));
                       hn::Store(hn::Mul(d_h, a.value), d, value + i);
                       hn::Store(hn::Mul(hn::Mul(d_h, v), a.slope), d, gate + i);
                     } else {
                       hn::Store(hn::Mul(d_h, ActivateWithSlope<kActivation>(v).slope), d, value + i);
                     }
                   });
  }

  /// visit(values, gates, offset, hidden, d_hidden) for every vector of a chunk.
  template <class Visit>
  void EachHidden(const TrainedChunk& chunk, PanelRange range, Visit&& visit) {
    DispatchActivation(model_.config.activation_fn,
                       [&]<Activation kActivation>() { EachHiddenOf<kActivation>(chunk, range, visit); });
  }
  template <Activation kActivation, class Visit>
  void EachHiddenOf(const TrainedChunk& chunk, PanelRange range, Visit&& visit) {
    for (std::size_t panel = range.begin; panel < range.end; ++panel) {
      float* value = Projected()(panel);
      for (std::size_t i = 0; i < 2 * chunk.count; ++i)
        visit.template operator()<kActivation>(value, value + chunk.count * kPanel, i * kLanes,
                                               Hidden(at_.hidden)(panel), Hidden(at_.d_hidden)(panel));
    }
  }

  void ChunkBackward(std::size_t layer, const TrainedChunk& chunk) {
    const auto& to = backward_.gradients->weights.blocks[layer];
    const Rows d_y = At(at_.d_y), d_n = At(at_.d_n), d_hidden = Hidden(at_.d_hidden);
    const Rows d_projected = Projected(), d_gates{d_projected.data + chunk.count * kPanel, d_projected.panel};
    if (to.ff_out.weight)
      AddGradients({{Floats(to.ff_out.weight) + chunk.first, trained_.hidden, nullptr, d_y}}, inner_, chunk.count,
                   panels_);
    Panels(panels_, [&](PanelRange range, Workspace&) {
      ProductOf<Sum::store>(chunk.out.transposed, d_y, d_hidden, range);
      Drop(layer, DropoutSite::feed_forward, chunk.first, chunk.count, d_hidden, range);
      ActivateBackward(chunk, range);
      ProductPart(chunk.values_transposed, chunk, d_projected, d_n, range);
      if (trained_.gated) ProductOf<Sum::add>(chunk.gates_transposed, d_gates, d_n, range);
      if (to.ff_in.weight) Transpose(At(at_.n[2]), inner_, panels_, range);
    });
    const auto rows = [&](std::size_t first, const Rows& d_rows) -> LinearGradient {
      float *weight = Floats(to.ff_in.weight), *bias = Floats(to.ff_in.bias);
      return {weight == nullptr ? nullptr : weight + first * inner_, inner_, bias == nullptr ? nullptr : bias + first,
              d_rows};
    };
    AddGradients({rows(chunk.first, d_projected)}, chunk.count, inner_, panels_);
    if (trained_.gated) AddGradients({rows(trained_.hidden + chunk.first, d_gates)}, chunk.count, inner_, panels_);
  }

  // Discrete input: plain loops around the products.

  /// visit(panel's lane offset, video's frame row, pixel) for every token.
  template <class Visit>
  void EachToken(Visit&& visit) {
    for (std::size_t v = 0; v < shape_.vectors(); ++v)
      for (std::size_t lane = 0; lane < runs_[v % shape_.runs].valid; ++lane)
        visit(v / 2, v % 2 * kLanes + lane, video_ * call_.frames + v / shape_.runs,
              (tile_.first + v % shape_.runs * kLanes + lane) % call_.pixels);
  }

  std::size_t ClassAt(std::size_t row, std::size_t pixel) const {
    const TensorView& classes = call_.inputs->hidden_states;
    return static_cast<std::size_t>(
        classes.data_as<std::int64_t>()[static_cast<std::int64_t>(row) * classes.strides()[0] +
                                        static_cast<std::int64_t>(pixel) * classes.strides()[1]]);
  }

  void Embed() {
    const Rows x = InputOf(0);
    std::fill_n(x.data, panels_ * x.panel, 0.0f);
    EachToken([&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
      const std::size_t id = ClassAt(row, pixel);
      for (std::size_t c = 0; c < inner_; ++c)
        x(panel)[c * kPanel + lane] =
            model_.latent_emb[id * inner_ + c] + (model_.latent_height_emb[pixel / call_.width * inner_ + c] +
                                                  model_.latent_width_emb[pixel % call_.width * inner_ + c]);
    });
  }

  void EmbedBackward() {
    const Rows d_x = At(at_.d_x);
    BackwardSums& sums = *backward_.sums;
    turns_.in_turn([&] {
      EachToken([&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
        const std::size_t id = ClassAt(row, pixel);
        for (std::size_t c = 0; c < inner_; ++c) {
          const auto d = static_cast<double>(d_x(panel)[c * kPanel + lane]);
          sums.latent[id * inner_ + c] += d;
          sums.height[pixel / call_.width * inner_ + c] += d;
          sums.width[pixel % call_.width * inner_ + c] += d;
        }
      });
    });
  }

  std::size_t Classes() const { return model_.classes(); }

  /// norm_out and out: logits in at_.d_image.
  Rows Logits() {
    const Rows n = At(at_.n[0]), logits{at_.d_image.data(), PanelOf(Classes())};
    Panels(panels_, [&](PanelRange range, Workspace&) {
      for (std::size_t panel = range.begin; panel < range.end; ++panel)
        LayerNormPanel<Arithmetic::f32>(Last()(panel), inner_, 1e-5f, model_.norm_out_scale.data(),
                                        model_.norm_out_shift.data(), model_.norm_out_shift.data(),
                                        reinterpret_cast<std::uint32_t*>(n(panel)));
      ProductOf<Sum::store>(trained_.out.forward, n, logits, range);
    });
    return logits;
  }

  /// log of the sum of exp(logit - most), and most.
  std::pair<double, float> LogSum(const float* logits) const {
    float most = logits[0];
    for (std::size_t k = 1; k < Classes(); ++k) most = std::max(most, logits[k * kPanel]);
    double sum = 0.0;
    for (std::size_t k = 0; k < Classes(); ++k) sum += std::exp(static_cast<double>(logits[k * kPanel] - most));
    return {std::log(sum), most};
  }

  void Classify() {
    const Rows logits = Logits();
    EachToken([&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
      const float* from = logits(panel) + lane;
      const auto [log_sum, most] = LogSum(from);
      auto* to = reinterpret_cast<float*>(call_.output.data) + static_cast<std::int64_t>(row) * call_.output.stride_n +
                 static_cast<std::int64_t>(pixel) * call_.output.stride_w;
      for (std::size_t k = 0; k < Classes(); ++k)
        to[static_cast<std::int64_t>(k) * call_.output.stride_c] =
            static_cast<float>(static_cast<double>(from[k * kPanel] - most) - log_sum);
    });
  }

  void ClassifyBackward() {
    const Rows logits = Logits();
    const auto& gradient = backward_.d_output;
    std::vector<float> d(Classes());
    const Rows d_logits = logits;
    EachToken([&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
      float* at = logits(panel) + lane;
      const auto [log_sum, most] = LogSum(at);
      double total = 0.0;
      DispatchPixels(gradient.dtype, [&]<class T>(T) {
        const T* from = reinterpret_cast<const T*>(gradient.data) + static_cast<std::int64_t>(row) * gradient.stride_n +
                        static_cast<std::int64_t>(pixel) * gradient.stride_w;
        for (std::size_t k = 0; k < Classes(); ++k) {
          d[k] = to_float(from[static_cast<std::int64_t>(k) * gradient.stride_c]);
          total += static_cast<double>(d[k]);
        }
      });
      for (std::size_t k = 0; k < Classes(); ++k)
        at[k * kPanel] = static_cast<float>(static_cast<double>(d[k]) -
                                            std::exp(static_cast<double>(at[k * kPanel] - most) - log_sum) * total);
    });
    // Tokens that are none have no gradient.
    for (std::size_t v = 0; v < 2 * panels_; ++v)
      for (std::size_t lane = v < shape_.vectors() ? runs_[v % shape_.runs].valid : 0; lane < kLanes; ++lane)
        for (std::size_t k = 0; k < pad_channels(Classes()); ++k)
          d_logits(v / 2)[k * kPanel + v % 2 * kLanes + lane] = 0.0f;
    const WeightGradients& to = backward_.gradients->weights;
    if (to.out.weight) Transpose(At(at_.n[0]), inner_, panels_);
    AddGradients({Whole(to.out, inner_, d_logits)}, Classes(), inner_, panels_);
    Product<Sum::store>(trained_.out.transposed, d_logits, At(at_.d_n), panels_);
    std::fill_n(at_.d_x.data(), panels_ * PanelOf(inner_), 0.0f);
    Panels(panels_, [&](PanelRange range, Workspace&) {
      for (std::size_t panel = range.begin; panel < range.end; ++panel)
        LayerNormBackwardPanel(Last()(panel), At(at_.d_n)(panel), inner_, 1e-5f, model_.norm_out_scale.data(),
                               At(at_.d_x)(panel), at_.moments.data() + panel * 2 * kPanel);
    });
    AddNormSums(backward_.sums->norm_out, Last());
    // n[0] was the last block's; its input is still there.
    if (trained_.blocks.size() >= 1) AttentionForward(trained_.blocks.size() - 1, 0);
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

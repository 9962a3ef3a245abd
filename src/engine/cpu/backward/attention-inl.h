// An attention of a block, on the way there and back.
#if defined(KINEOGRAPH_CPU_BACKWARD_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_ATTENTION_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_ATTENTION_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_ATTENTION_INL_H_
#endif

#include "engine/cpu/backward/norms-inl.h"
#include "engine/cpu/kernels/attention_backward-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

class BackwardAttention : public BackwardNorms {
 protected:
  using BackwardNorms::BackwardNorms;

  /// x (the block's input, or x1) -> x1, or x2. Without this attention: a copy.
  void AttentionForward(std::size_t which) {
    const Rows from = AttentionInput(which);
    const Rows to = which == 0 ? Rows(Write<Value::x1>()) : Rows(Write<Value::x2>());
    if (!HasAttention(layer_, which)) {
      Panels([&](PanelRange range, const Worker&) { std::copy(from(range.begin), from(range.end), to(range.begin)); });
      return;
    }
    const auto n = Write<Value::normed>(which);
    const auto q = Write<Value::queries>(which);
    const auto k = Write<Value::keys>(which);
    const auto v = Write<Value::values>(which);
    const auto attended = Write<Value::attended>(which);
    const auto branch = Write<Value::branch>();
    const TrainedBlock& block = trained_.blocks[layer_];
    Panels([&](PanelRange range, const Worker&) {
      Normalise(which, from, n, range);
      const Operands operand = AsOperand(n, pad_channels(inner_), range);
      ProductOf<Sum::store>(block.q[which].forward, operand, q, range);
      if (Conditioned(which)) return;
      ProductOf<Sum::store>(block.k[which].forward, operand, k, range);
      ProductOf<Sum::store>(block.v[which].forward, operand, v, range);
    });
    if (Conditioned(which)) ProjectContext(which, k, v);
    team_.for_each(model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      for (std::size_t head = begin; head < end; ++head)
        for (std::size_t run = 0; run < shape_.runs; ++run)
          AttendHead(Head(q, head, run), call_.frames, Head(k, head, run), Head(v, head, run), Keys(which),
                     model_.head_dim, Scale(), mine.scores.data(), HeadTo(attended, head, run));
    });
    Panels([&](PanelRange range, const Worker&) {
      AttentionOutput(which, attended, branch, range);
      AddGated(from, AttentionGate(which), branch, to, range);
    });
  }

  void AttentionBackward(std::size_t which) {
    if (!HasAttention(layer_, which)) return;
    if (which == 0 && !GateSums(0).empty()) {
      const auto attended = Read<Value::attended>(which);
      const auto branch = Write<Value::branch>();
      Panels([&](PanelRange range, const Worker&) { AttentionOutput(which, attended, branch, range); });  // again
      AddGateSums(GateSums(0), Read<Value::d_x>(), branch);
    }
    OutputBackward(which);
    HeadsBackward(which);
    if (Conditioned(which)) {
      QueriesBackward(which);
      ContextBackward(which);
    } else {
      ProjectionsBackward(which);
    }
    NormaliseBackward(which, AttentionInput(which));
  }

 private:
  Rows AttentionInput(std::size_t which) {
    return which == 0 ? Rows(Read<Value::block_input>(layer_)) : Rows(Read<Value::x1>());
  }
  const float* AttentionGate(std::size_t which) const { return which == 0 ? Modulate(layer_).gate_attn1 : nullptr; }
  static DropoutSite SiteOf(std::size_t which) { return which == 0 ? DropoutSite::attn1 : DropoutSite::attn2; }
  const AttentionOf<MutableTensorView>& Wanted(std::size_t which) const {
    const BlockOf<MutableTensorView>& weights = backward_.gradients->weights.blocks[layer_];
    return which == 0 ? weights.attn1 : weights.attn2;
  }

  HeadRows Head(const Rows& rows, std::size_t head, std::size_t run) const {
    return {rows.data + head * model_.head_dim * kPanel, rows.panel, shape_.runs, run};
  }
  HeadGradient HeadTo(const Rows& rows, std::size_t head, std::size_t run) const {
    return {rows.data + head * model_.head_dim * kPanel, rows.panel, shape_.runs, run};
  }

  void ProjectContext(std::size_t which, const Rows& k, const Rows& v) {
    const TrainedBlock& block = trained_.blocks[layer_];
    const auto context = Write<Value::context>();
    GatherContext<Arithmetic::f32>(AsOperands(context));
    Panels(KeyPanels(which), [&](PanelRange range, const Worker&) {
      const Operands operand = AsOperand(context, pad_channels(call_.context_dim), range);
      ProductOf<Sum::store>(block.k[which].forward, operand, k, range);
      ProductOf<Sum::store>(block.v[which].forward, operand, v, range);
    });
  }

  /// branch = dropout(to_out(attended))
  void AttentionOutput(std::size_t which, const Rows& attended, const Rows& branch, PanelRange range) {
    ProductOf<Sum::store>(trained_.blocks[layer_].out[which].forward, attended, branch, range);
    Drop(SiteOf(which), 0, inner_, branch, range);
  }

  /// d_x -> d_branch -> d_attended, and to_out's gradients.
  void OutputBackward(std::size_t which) {
    const auto d_x = Read<Value::d_x>();
    const auto attended = Read<Value::attended>(which);
    const auto d_branch = Write<Value::d_branch>();
    const auto d_attended = Write<Value::d_attended>();
    const Turned turned = Turn(Value::attended);
    Panels([&](PanelRange range, const Worker&) {
      ScaleByGate(AttentionGate(which), d_x, d_branch, range);
      Drop(SiteOf(which), 0, inner_, d_branch, range);
      if (Wanted(which).to_out.weight) Transpose(attended, inner_, panels_, range);
      ProductOf<Sum::store>(trained_.blocks[layer_].out[which].transposed, d_branch, d_attended, range);
    });
    AddGradients(turned, {Whole(Wanted(which).to_out, inner_, d_branch)}, inner_, inner_, panels_);
  }

  /// d_attended -> d_queries, d_keys, d_values, each in memory that is not read again: see AttendHeadBackward.
  void HeadsBackward(std::size_t which) {
    const auto q = Read<Value::queries>(which);
    const auto k = Read<Value::keys>(which);
    const auto v = Read<Value::values>(which);
    const auto d_attended = Read<Value::d_attended>();
    const auto d_q = Write<Value::d_queries>();
    const auto d_k = Write<Value::d_keys>(which);
    const auto d_v = Write<Value::d_values>(which);
    team_.for_each(model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      for (std::size_t head = begin; head < end; ++head)
        for (std::size_t run = 0; run < shape_.runs; ++run)
          AttendHeadBackward(Head(q, head, run), call_.frames, Head(k, head, run), Head(v, head, run), Keys(which),
                             model_.head_dim, Scale(), Head(d_attended, head, run), HeadTo(d_q, head, run),
                             HeadTo(d_k, head, run), HeadTo(d_v, head, run), mine.scores.data());
    });
    // A last half panel that is no token's still holds keys and values.
    if (Keys(which) * shape_.runs % 2 == 1) {
      ClearLastHalf(d_k, KeyPanels(which));
      ClearLastHalf(d_v, KeyPanels(which));
    }
  }

  void ClearLastHalf(const Rows& rows, std::size_t panels) {
    float* last = rows(panels - 1) + kLanes;
    for (std::size_t c = 0; c < pad_channels(inner_); ++c) hn::Store(hn::Zero(D()), D(), last + c * kPanel);
  }

  /// d_queries, d_keys, d_values -> d_normed, and the gradients of to_q, to_k, to_v.
  void ProjectionsBackward(std::size_t which) {
    const TrainedBlock& block = trained_.blocks[layer_];
    const AttentionOf<MutableTensorView>& to = Wanted(which);
    const auto n = Read<Value::normed>(which);
    const auto d_q = Read<Value::d_queries>();
    const auto d_k = Read<Value::d_keys>(which);
    const auto d_v = Read<Value::d_values>(which);
    const auto d_n = Write<Value::d_normed>();
    const Turned turned = Turn(Value::normed);
    Panels([&](PanelRange range, const Worker&) {
      if (to.to_q.weight || to.to_k.weight || to.to_v.weight) Transpose(n, inner_, panels_, range);
      ProductOf<Sum::store>(block.q[which].transposed, d_q, d_n, range);
      ProductOf<Sum::add>(block.k[which].transposed, d_k, d_n, range);
      ProductOf<Sum::add>(block.v[which].transposed, d_v, d_n, range);
    });
    AddGradients(turned, {Whole(to.to_q, inner_, d_q), Whole(to.to_k, inner_, d_k), Whole(to.to_v, inner_, d_v)},
                 inner_, inner_, panels_);
  }

  /// The same of the queries alone, where keys and values are of a conditioning.
  void QueriesBackward(std::size_t which) {
    const auto n = Read<Value::normed>(which);
    const auto d_q = Read<Value::d_queries>();
    const auto d_n = Write<Value::d_normed>();
    const Turned turned = Turn(Value::normed);
    Panels([&](PanelRange range, const Worker&) {
      if (Wanted(which).to_q.weight) Transpose(n, inner_, panels_, range);
      ProductOf<Sum::store>(trained_.blocks[layer_].q[which].transposed, d_q, d_n, range);
    });
    AddGradients(turned, {Whole(Wanted(which).to_q, inner_, d_q)}, inner_, inner_, panels_);
  }

  /// d_keys, d_values -> the gradients of to_k, to_v and of the conditioning, which all layers add to.
  void ContextBackward(std::size_t which) {
    const TrainedBlock& block = trained_.blocks[layer_];
    const AttentionOf<MutableTensorView>& to = Wanted(which);
    const std::size_t width = call_.context_dim, panels = KeyPanels(which);
    const auto context = Read<Value::context>();
    const auto d_k = Read<Value::d_keys>(which);
    const auto d_v = Read<Value::d_values>(which);
    const Turned turned = Turn(Value::context);
    if (to.to_k.weight || to.to_v.weight) Transpose(context, width, panels);
    AddGradients(turned, {Whole(to.to_k, width, d_k), Whole(to.to_v, width, d_v)}, inner_, width, panels);
    if (!backward_.gradients->encoder_hidden_states) return;
    const bool first = layer_ + 1 == trained_.blocks.size();
    const Rows d_context = first ? Rows(Write<Value::d_context>()) : Rows(Read<Value::d_context>());
    if (first)
      Product<Sum::store>(block.k[which].transposed, d_k, d_context, panels);
    else
      Product<Sum::add>(block.k[which].transposed, d_k, d_context, panels);
    Product<Sum::add>(block.v[which].transposed, d_v, d_context, panels);
    if (layer_ == 0) ScatterContext(d_context);
  }

  /// The conditioning's gradient: a video's own is summed, by one thread a channel; a pixel's is this tile's alone.
  void ScatterContext(const Rows& d_context) {
    const MutableTensorView& to = backward_.gradients->encoder_hidden_states;
    const std::size_t tokens = call_.context_tokens, width = call_.context_dim;
    const auto each = [&](std::size_t begin, std::size_t end, auto&& visit) {
      for (std::size_t c = begin; c < end; ++c)
        for (std::size_t v = 0; v < tokens * shape_.runs; ++v)
          for (std::size_t lane = 0; lane < runs_[v % shape_.runs].valid; ++lane)
            visit(static_cast<std::int64_t>(ContextRow(v % shape_.runs, lane)),
                  static_cast<std::int64_t>(v / shape_.runs), static_cast<std::int64_t>(c),
                  d_context(v / 2)[c * kPanel + v % 2 * kLanes + lane]);
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
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

// The feed-forward of a block, on the way there and back, a chunk of hidden columns at a time.
#if defined(KINEOGRAPH_CPU_BACKWARD_FEED_FORWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_FEED_FORWARD_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_FEED_FORWARD_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_FEED_FORWARD_INL_H_
#endif

#include <optional>

#include "engine/cpu/backward/attention-inl.h"
#include "engine/cpu/kernels/activation-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

class BackwardFeedForward : public BackwardAttention {
 protected:
  using BackwardAttention::BackwardAttention;

  /// to = x2 + gate * ff(norm(x2))
  void FeedForward(const Rows& to) {
    const Chunk at = WriteChunk();
    const auto branch = Write<Value::branch>();
    Panels([&](PanelRange range, const Worker&) {
      for (const TrainedChunk& chunk : trained_.blocks[layer_].chunks) ChunkForward(chunk, at, &branch, range);
      AddGated(at.x2, Modulate(layer_).gate_ff, branch, to, range);
    });
  }

  /// d_x behind the block -> d_x behind its attentions. `output`: the branch is wanted too.
  void FeedForwardBackward(bool output) {
    const auto& to = backward_.gradients->weights.blocks[layer_];
    std::vector<double>& gate_sums = GateSums(1);
    output = output || !gate_sums.empty();
    const Chunk at = WriteChunk();
    const auto d_x = Read<Value::d_x>();
    const auto d_branch = Write<Value::d_branch>();
    std::optional<RowsOf<Value::branch>> branch;
    if (output) branch = Write<Value::branch>();
    for (const TrainedChunk& chunk : trained_.blocks[layer_].chunks) {
      Write<Value::projected>();
      const Turned turned = Turn(Value::hidden);
      Panels([&](PanelRange range, const Worker&) {
        if (chunk.first == 0) ScaleByGate(Modulate(layer_).gate_ff, d_x, d_branch, range);
        ChunkForward(chunk, at, branch ? &*branch : nullptr, range);
        if (to.ff_out.weight) Transpose(at.hidden, chunk.count, panels_, range);
      });
      if (to.ff_out.weight)
        AddGradients(turned, {{Floats(to.ff_out.weight) + chunk.first, trained_.hidden, nullptr, d_branch}}, inner_,
                     chunk.count, panels_);
      ChunkBackward(chunk);
    }
    if (branch) AddGateSums(gate_sums, d_x, *branch);
    AddBias(Floats(to.ff_out.bias), d_branch, inner_, panels_);
    NormaliseBackward(2, at.x2);
  }

 private:
  /// The values of a chunk. Panels lie as far apart as those of the widest chunk: a thread may be a chunk ahead of
  /// another.
  struct Chunk {
    RowsOf<Value::x2> x2;
    RowsOf<Value::normed> n;
    RowsOf<Value::projected> projected;
    RowsOf<Value::hidden> hidden;
  };
  Chunk WriteChunk() {
    return {Read<Value::x2>(), Write<Value::normed>(2), Write<Value::projected>(), Write<Value::hidden>()};
  }

  /// A chunk of the branch: norm3 before the first; and its share of y = ff(n) without the gate, unless null.
  void ChunkForward(const TrainedChunk& chunk, const Chunk& at, const RowsOf<Value::branch>* y, PanelRange range) {
    if (chunk.first == 0) Normalise(2, at.x2, at.n, range);
    ProductOf<Sum::store>(chunk.in, at.n, at.projected, range);
    Activate(chunk, at.projected, at.hidden, range);
    Drop(DropoutSite::feed_forward, chunk.first, chunk.count, at.hidden, range);
    if (y != nullptr) ProductPart(chunk.out.forward, chunk, at.hidden, *y, range);
  }

  /// The first chunk's products are stored, the others' added.
  void ProductPart(const PackedLinear& linear, const TrainedChunk& chunk, const Rows& x, const Rows& y,
                   PanelRange range) {
    if (chunk.first == 0)
      ProductOf<Sum::store>(linear, x, y, range);
    else
      ProductOf<Sum::add>(linear, x, y, range);
  }

  /// d_branch -> d_hidden -> d_projected, in projected's place, -> a share of d_normed; and the gradients of ff.net.0.
  void ChunkBackward(const TrainedChunk& chunk) {
    const auto& to = backward_.gradients->weights.blocks[layer_].ff_in;
    const auto d_branch = Read<Value::d_branch>();
    const auto n = Read<Value::normed>(2);
    const auto projected = Read<Value::projected>();
    const auto d_hidden = Write<Value::d_hidden>();
    const auto d_projected = Write<Value::d_projected>();
    const auto d_n = Write<Value::d_normed>();
    const Rows d_gates{d_projected.data + chunk.count * kPanel, d_projected.panel};
    const Turned turned = Turn(Value::normed);
    Panels([&](PanelRange range, const Worker&) {
      ProductOf<Sum::store>(chunk.out.transposed, d_branch, d_hidden, range);
      Drop(DropoutSite::feed_forward, chunk.first, chunk.count, d_hidden, range);
      ActivateBackward(chunk, projected, d_hidden, d_projected, range);
      ProductPart(chunk.values_transposed, chunk, d_projected, d_n, range);
      if (trained_.gated) ProductOf<Sum::add>(chunk.gates_transposed, d_gates, d_n, range);
      if (to.weight) Transpose(n, inner_, panels_, range);
    });
    const auto rows = [&](std::size_t first, const Rows& d_rows) -> LinearGradient {
      float *weight = Floats(to.weight), *bias = Floats(to.bias);
      return {weight == nullptr ? nullptr : weight + first * inner_, inner_, bias == nullptr ? nullptr : bias + first,
              d_rows};
    };
    AddGradients(turned, {rows(chunk.first, d_projected)}, chunk.count, inner_, panels_);
    if (trained_.gated)
      AddGradients(turned, {rows(trained_.hidden + chunk.first, d_gates)}, chunk.count, inner_, panels_);
  }

  void Activate(const TrainedChunk& chunk, const Rows& projected, const Rows& hidden, PanelRange range) const {
    EachVectorOf(chunk, projected, range,
                 [&]<Activation kActivation>(std::size_t panel, const float* value, const float* gate, std::size_t i)
                     KINEOGRAPH_ATTR {
                       const D d;
                       const Vec v = hn::Load(d, value + i);
                       Vec h;
                       if constexpr (is_gated(kActivation))
                         h = hn::Mul(v, ActivateWithSlope<kActivation>(hn::Load(d, gate + i)).value);
                       else
                         h = ActivateWithSlope<kActivation>(v).value;
                       hn::Store(h, d, hidden(panel) + i);
                     });
  }

  /// d_projected may take projected's memory.
  void ActivateBackward(const TrainedChunk& chunk, const Rows& projected, const Rows& d_hidden, const Rows& d_projected,
                        PanelRange range) const {
    const std::size_t gates = chunk.count * kPanel;
    EachVectorOf(chunk, projected, range,
                 [&]<Activation kActivation>(std::size_t panel, const float* value, const float* gate, std::size_t i)
                     KINEOGRAPH_ATTR {
                       const D d;
                       const Vec v = hn::Load(d, value + i), d_h = hn::Load(d, d_hidden(panel) + i);
                       float* const to = d_projected(panel) + i;
                       if constexpr (is_gated(kActivation)) {
                         const Activated a = ActivateWithSlope<kActivation>(hn::Load(d, gate + i));
                         hn::Store(hn::Mul(d_h, a.value), d, to);
                         hn::Store(hn::Mul(hn::Mul(d_h, v), a.slope), d, to + gates);
                       } else {
                         hn::Store(hn::Mul(d_h, ActivateWithSlope<kActivation>(v).slope), d, to);
                       }
                     });
  }

  /// visit<activation>(panel, values, gates, offset) for every vector of a chunk.
  template <class Visit>
  void EachVectorOf(const TrainedChunk& chunk, const Rows& projected, PanelRange range, Visit&& visit) const {
    DispatchActivation(model_.config.activation_fn, [&]<Activation kActivation>() {
      for (std::size_t panel = range.begin; panel < range.end; ++panel) {
        const float* value = projected(panel);
        for (std::size_t i = 0; i < 2 * chunk.count; ++i)
          visit.template operator()<kActivation>(panel, value, value + chunk.count * kPanel, i * kLanes);
      }
    });
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

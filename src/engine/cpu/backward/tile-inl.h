// One tile of training: its values, and the pieces that every phase is made of.
#if defined(KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_
#endif

#include <initializer_list>
#include <vector>

#include "engine/cpu/backward/backward.h"
#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/kernels/outer-inl.h"
#include "engine/cpu/tile/tile-inl.h"
#include "engine/dropout.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Rows that hold one value.
template <Value kValue>
struct RowsOf : Rows {};

/// A phase begins by naming the values that it reads and writes; the phases' memory is shared (see storage_of), and
/// assertions find a value that another one has taken the place of.
class BackwardTile : public TileBase {
 protected:
  BackwardTile(const BackwardCall& backward, const Tile& tile, Team& team, Turns& turns, BackwardBuffers& buffers)
      : TileBase(*backward.call, tile, team),
        backward_(backward),
        trained_(*backward.model),
        turns_(turns),
        at_(buffers),
        panels_(tile.shape.panels()),
        inner_(model_.inner),
        arithmetic_(trained_arithmetic(model_)),
        operand_panel_(operand_panel(call_, trained_, kLanes)),
        places_(tile.shape.runs) {
    Locate(backward.forward_only ? call_.output : backward.d_input, places_.data());
  }

  // Values. Called by the tile's owner, between phases.

  /// Memory that holds `kValue` from now on; `which` counts attentions or norms, for block_input layers.
  template <Value kValue>
  RowsOf<kValue> Write(std::size_t which = 0) {
    Held& held = HeldOf(kValue, which);
    held.value = kValue;
    held.layer = kValue == Value::block_input ? which : layer_;
    return RowsIn<kValue>(held);
  }
  /// Memory that holds `kValue`.
  template <Value kValue>
  RowsOf<kValue> Read(std::size_t which = 0) {
    Held& held = HeldOf(kValue, which);
    KINEOGRAPH_ASSERT(held.value == kValue);
    KINEOGRAPH_ASSERT(kValue < Value::block_input || held.layer == (kValue == Value::block_input ? which : layer_));
    return RowsIn<kValue>(held);
  }
  /// The input of a block; past the last one, the output of them all.
  Rows WriteInputOf(std::size_t layer) {
    if (layer < trained_.blocks.size()) return Write<Value::block_input>(layer);
    return Write<Value::last_output>();
  }

  /// Turns x for AddGradients: a range of its panels, or all.
  struct Turned {
    Value value;
  };
  Turned Turn(Value value) {
    at_.transposed.value = value;
    at_.transposed.layer = layer_;
    return {value};
  }
  void Transpose(const Rows& x, std::size_t channels, std::size_t panels, PanelRange range) {
    InArithmetic([&]<Arithmetic kArithmetic>() {
      TransposePanels<kArithmetic>(x.data, x.panel, channels, range, panels, at_.transposed.memory.data());
    });
  }
  void Transpose(const Rows& x, std::size_t channels, std::size_t panels) {
    Panels(panels, [&](PanelRange range, const Worker&) { Transpose(x, channels, panels, range); });
  }

  // Products.

  /// Cuts [0, count) rows among threads, evenly: on many a whole kernel's rows would be too coarse a measure.
  template <class Work>
  void RowRanges(std::size_t count, Work&& work) {
    const std::size_t rows = arithmetic_ == Arithmetic::bf16_amx ? kAmxRows : 2;
    team_.for_ranges((count + rows - 1) / rows, [&](std::size_t begin, std::size_t end, const Worker&) {
      work(begin * rows, std::min(count, end * rows));
    });
  }

  /// Rows of a range of panels as they are, or rounded to bf16 pairs until the next operand of that range.
  Operands AsOperand(const Rows& x, std::size_t channels, PanelRange range) {
    if (!is_paired(arithmetic_)) return AsOperands(x);
    const Operands pairs{reinterpret_cast<std::uint32_t*>(at_.operand.data()), operand_panel_};
    for (std::size_t panel = range.begin; panel < range.end; ++panel) PairRows(x(panel), channels, pairs(panel));
    return pairs;
  }

  /// body<arithmetic of the products>()
  template <class Body>
  void InArithmetic(Body&& body) {
#if KINEOGRAPH_NATIVE_BF16
    if (arithmetic_ == Arithmetic::bf16_amx) return body.template operator()<Arithmetic::bf16_amx>();
    if (arithmetic_ == Arithmetic::bf16) return body.template operator()<Arithmetic::bf16>();
#endif
    body.template operator()<Arithmetic::f32>();
  }

  template <Sum kMode>
  void Product(const PackedLinear& linear, const Rows& x, const Rows& y, std::size_t panels) {
    Panels(panels, [&](PanelRange range, const Worker&) { ProductOf<kMode>(linear, x, y, range); });
  }
  template <Sum kMode>
  void ProductOf(const PackedLinear& linear, const Rows& x, const Rows& y, PanelRange range) {
    ProductOf<kMode>(linear, AsOperand(x, linear.cols, range), y, range);
  }
  template <Sum kMode>
  void ProductOf(const PackedLinear& linear, const Operands& x, const Rows& y, PanelRange range) {
    InArithmetic([&]<Arithmetic kArithmetic>() {
      Gemm<kArithmetic>(linear, x.data, x.panel, range, ToRows<kMode>{y.data, y.panel});
    });
  }

  // Gradients of weights, in turn.

  static float* Floats(const MutableTensorView& view) { return view ? static_cast<float*>(view.data()) : nullptr; }

  /// Memory of the gradient of a linear layer, or of some of its columns: weight [rows][stride] and bias [rows], null
  /// where they are not wanted.
  struct LinearGradient {
    float* weight;
    std::size_t stride;
    float* bias;
    Rows d_y;
  };
  static LinearGradient Whole(const LinearOf<MutableTensorView>& to, std::size_t channels, const Rows& d_y) {
    return {Floats(to.weight), channels, Floats(to.bias), d_y};
  }

  /// Rows [begin, end) of a weight's gradient; in bf16 by way of those rows of at_.paired.
  void AddWeight(const LinearGradient& to, std::size_t begin, std::size_t end, std::size_t channels,
                 std::size_t panels) {
    InArithmetic([&]<Arithmetic kArithmetic>() {
      const float* d_y = to.d_y.data;
      std::size_t d_y_panel = to.d_y.panel;
      if constexpr (is_paired(kArithmetic)) {
        PairTokens<kArithmetic>(d_y, d_y_panel, begin, end, panels, at_.paired.data(), operand_panel_);
        d_y = at_.paired.data();
        d_y_panel = operand_panel_;
      }
      AddOuter<kArithmetic>(d_y, d_y_panel, begin, end, at_.transposed.memory.data(), channels, panels, to.weight,
                            to.stride);
    });
  }

  /// Adds to the gradients of layers that share the turned x. A layer a turn: the next tile follows the closer.
  void AddGradients(Turned x, std::initializer_list<LinearGradient> layers, std::size_t rows, std::size_t channels,
                    std::size_t panels) {
    KINEOGRAPH_ASSERT(at_.transposed.value == x.value && at_.transposed.layer == layer_);
    for (const LinearGradient& to : layers) {
      if (to.weight == nullptr && to.bias == nullptr) continue;
      turns_.in_turn([&] {
        RowRanges(rows, [&](std::size_t begin, std::size_t end) {
          if (to.weight != nullptr) AddWeight(to, begin, end, channels, panels);
          if (to.bias != nullptr) AddSums(to.d_y.data, to.d_y.panel, begin, end, panels, to.bias);
        });
      });
    }
  }

  void AddBias(float* bias, const Rows& d_y, std::size_t rows, std::size_t panels) {
    if (bias == nullptr) return;
    turns_.in_turn([&] {
      RowRanges(rows,
                [&](std::size_t begin, std::size_t end) { AddSums(d_y.data, d_y.panel, begin, end, panels, bias); });
    });
  }

  /// work(begin, end) over rows of sums that tiles share.
  template <class Work>
  void AddToSums(std::size_t rows, Work&& work) {
    turns_.in_turn(
        [&] { team_.for_ranges(rows, [&](std::size_t begin, std::size_t end, const Worker&) { work(begin, end); }); });
  }

  /// mask(token, channel) on rows [panel][width]; tokens count as engine/dropout.h says.
  void Drop(DropoutSite site, std::size_t first, std::size_t width, const Rows& rows, PanelRange range) {
    const auto& inputs = *call_.inputs;
    if (!inputs.training_seed || model_.config.dropout == 0.0) return;
    const Dropout dropout(model_.config.dropout, *inputs.training_seed, static_cast<std::int64_t>(layer_), site);
    for (std::size_t v = 2 * range.begin; v < std::min(2 * range.end, shape_.vectors()); ++v)
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const std::size_t pixel = tile_.first + v % shape_.runs * kLanes + lane;
        const std::size_t place = call_.place(pixel / call_.pixels, pixel % call_.pixels);
        const std::size_t token = place * shape_.frames + v / shape_.runs;
        float* value = rows(v / 2) + v % 2 * kLanes + lane;
        for (std::size_t c = 0; c < width; ++c)
          value[c * kPanel] *=
              static_cast<float>(dropout(static_cast<std::int64_t>(token), static_cast<std::int64_t>(first + c)));
      }
  }

  const BackwardCall& backward_;
  const TrainedModel& trained_;
  Turns& turns_;
  BackwardBuffers& at_;
  std::size_t panels_, inner_;
  std::size_t layer_ = 0;  ///< where the walk is
  Arithmetic arithmetic_;  ///< of products
  std::size_t operand_panel_;

 private:
  Held& HeldOf(Value value, std::size_t which) {
    if (value == Value::block_input) return at_.block_inputs[which];
    return at_.storage[static_cast<std::size_t>(storage_of(value, which, Discrete()))];
  }
  std::size_t WidthOf(Value value) const {
    switch (value) {
      case Value::image:
      case Value::sample:
      case Value::d_sample:
      case Value::d_image:
        return model_.channels;
      case Value::logits:
      case Value::d_logits:
        return model_.classes();
      case Value::context:
      case Value::d_context:
        return call_.context_dim;
      case Value::projected:
      case Value::d_projected:
        return trained_.chunk * (trained_.gated ? 2 : 1);
      case Value::hidden:
      case Value::d_hidden:
        return trained_.chunk;
      default:
        return inner_;
    }
  }
  template <Value kValue>
  RowsOf<kValue> RowsIn(Held& held) const {
    return {{held.memory.data(), pad_channels(WidthOf(kValue)) * kPanel}};
  }

  std::vector<PixelRun> places_;
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

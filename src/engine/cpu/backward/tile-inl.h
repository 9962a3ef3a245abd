// One tile on its way back: its values, and what every phase is made of.
#if defined(KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_TILE_INL_H_
#endif

#include "engine/cpu/backward/backward.h"
#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/kernels/outer-inl.h"
#include "engine/cpu/tile/image-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

class BackwardTile {
 public:
  BackwardTile(const BackwardCall& backward, const Tile& tile, Team& team, Turns& turns, BackwardBuffers& buffers)
      : backward_(backward),
        call_(*backward.call),
        model_(*call_.model),
        trained_(*backward.model),
        tile_(tile),
        shape_(tile.shape),
        team_(team),
        turns_(turns),
        at_(buffers),
        video_(tile.first / call_.pixels),
        panels_(tile.shape.panels()),
        inner_(model_.inner),
        arithmetic_(trained_arithmetic(model_)),
        operand_panel_(operand_panel(call_, trained_, kLanes)) {
    Call other = {};
    other.model = call_.model;
    other.frames = call_.frames;
    other.pixels = call_.pixels;
    other.width = call_.width;
    other.input = other.output = backward.d_output;
    for (std::size_t g = 0; g < shape_.runs; ++g) {
      runs_.push_back(LocateRun(call_, tile, g));
      d_runs_.push_back(LocateRun(other, tile, g));
    }
  }

 protected:
  /// A buffer over rows of one width.
  struct Rows {
    float* data;
    std::size_t panel;  ///< floats
    float* operator()(std::size_t p) const { return data + p * panel; }
    const std::uint32_t* words() const { return reinterpret_cast<const std::uint32_t*>(data); }
  };
  static std::size_t PanelOf(std::size_t channels) { return pad_channels(channels) * kPanel; }
  Rows Over(Buffer<float>& buffer, std::size_t channels) const { return {buffer.data(), PanelOf(channels)}; }
  Rows At(Buffer<float>& buffer) const { return Over(buffer, inner_); }
  bool Discrete() const { return model_.config.is_discrete(); }
  const Modulation& Modulate(std::size_t layer) const { return call_.modulation(layer, video_); }
  bool HasAttention(std::size_t layer, std::size_t which) const {
    return !model_.blocks[layer].attn[which].out.empty();
  }
  bool Conditioned(std::size_t which) const { return which == 1 && call_.context_tokens != 0; }
  std::size_t Keys(std::size_t which) const { return Conditioned(which) ? call_.context_tokens : call_.frames; }
  std::size_t KeyPanels(std::size_t which) const { return (Keys(which) * shape_.runs + 1) / 2; }

  template <class Work>
  void Panels(std::size_t count, Work&& work) {
    team_.for_ranges(count, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      work(PanelRange{begin, end}, mine);
    });
  }

  /// Cuts [0, count) rows among threads, evenly: on many a whole kernel's rows would be too coarse a measure.
  template <class Work>
  void RowRanges(std::size_t count, Work&& work) {
    const std::size_t rows = arithmetic_ == Arithmetic::bf16_amx ? kAmxRows : 2;
    team_.for_ranges((count + rows - 1) / rows, [&](std::size_t begin, std::size_t end, Workspace&) {
      work(begin * rows, std::min(count, end * rows));
    });
  }

  /// What products take: f32 rows as they are, or rounded to bf16 pairs.
  struct Operand {
    const std::uint32_t* words;
    std::size_t panel;
  };

  /// Rows of a range of panels, until the next operand of that range.
  Operand AsOperand(const Rows& x, std::size_t channels, PanelRange range) {
    if (!is_paired(arithmetic_)) return {x.words(), x.panel};
    auto* const operand = reinterpret_cast<std::uint32_t*>(at_.operand.data());
    for (std::size_t panel = range.begin; panel < range.end; ++panel)
      PairRows(x(panel), channels, operand + panel * operand_panel_);
    return {operand, operand_panel_};
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
    Panels(panels, [&](PanelRange range, Workspace&) { ProductOf<kMode>(linear, x, y, range); });
  }
  template <Sum kMode>
  void ProductOf(const PackedLinear& linear, const Rows& x, const Rows& y, PanelRange range) {
    ProductOf<kMode>(linear, AsOperand(x, linear.cols, range), y, range);
  }
  template <Sum kMode>
  void ProductOf(const PackedLinear& linear, const Operand& x, const Rows& y, PanelRange range) {
    InArithmetic([&]<Arithmetic kArithmetic>() {
      Gemm<kArithmetic>(linear, x.words, x.panel, range, ToRows<kMode>{y.data, y.panel});
    });
  }

  /// at_.transposed = x, for AddOuter: a range of its panels, or all.
  void Transpose(const Rows& x, std::size_t channels, std::size_t panels, PanelRange range) {
    InArithmetic([&]<Arithmetic kArithmetic>() {
      TransposePanels<kArithmetic>(x.data, x.panel, channels, range, panels, at_.transposed.data());
    });
  }
  void Transpose(const Rows& x, std::size_t channels, std::size_t panels) {
    Panels(panels, [&](PanelRange range, Workspace&) { Transpose(x, channels, panels, range); });
  }

  static float* Floats(const MutableTensorView& view) { return view ? static_cast<float*>(view.data()) : nullptr; }

  /// Where the gradient of a linear layer, or of some of its columns, goes: weight [rows][stride] and bias [rows], null
  /// where nobody wants them.
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
      AddOuter<kArithmetic>(d_y, d_y_panel, begin, end, at_.transposed.data(), channels, panels, to.weight, to.stride);
    });
  }

  /// Adds to the gradients of layers that share the x in at_.transposed. A layer a turn: the next tile follows the
  /// closer.
  void AddGradients(std::initializer_list<LinearGradient> layers, std::size_t rows, std::size_t channels,
                    std::size_t panels) {
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

  /// work(begin, end) over rows of sums that tiles share.
  template <class Work>
  void AddToSums(std::size_t rows, Work&& work) {
    turns_.in_turn(
        [&] { team_.for_ranges(rows, [&](std::size_t begin, std::size_t end, Workspace&) { work(begin, end); }); });
  }

  /// mask(token, channel) on rows [panel][width]; tokens count as engine/dropout.h says.
  void Drop(std::size_t layer, DropoutSite site, std::size_t first, std::size_t width, const Rows& rows,
            PanelRange range) {
    const auto& inputs = *call_.inputs;
    if (!inputs.training_seed || model_.config.dropout == 0.0) return;
    const Dropout dropout(model_.config.dropout, *inputs.training_seed, static_cast<std::int64_t>(layer), site);
    for (std::size_t v = 2 * range.begin; v < std::min(2 * range.end, shape_.vectors()); ++v)
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const std::size_t pixel = tile_.first + v % shape_.runs * kLanes + lane;
        const std::size_t token = pixel * shape_.frames + v / shape_.runs;
        float* value = rows(v / 2) + v % 2 * kLanes + lane;
        for (std::size_t c = 0; c < width; ++c)
          value[c * kPanel] *=
              static_cast<float>(dropout(static_cast<std::int64_t>(token), static_cast<std::int64_t>(first + c)));
      }
  }

  const BackwardCall& backward_;
  const Call& call_;
  const PackedModel& model_;
  const TrainedModel& trained_;
  const Tile& tile_;
  TileShape shape_;
  Team& team_;
  Turns& turns_;
  BackwardBuffers& at_;
  std::size_t video_, panels_, inner_;
  Arithmetic arithmetic_;  ///< of products
  std::size_t operand_panel_;
  std::vector<PixelRun> runs_, d_runs_;
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

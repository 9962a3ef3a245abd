// A tile's walk through all layers: gather, proj_in, blocks, proj_out, residual, scatter.
#if defined(KINEOGRAPH_CPU_FORWARD_WALK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_FORWARD_WALK_INL_H_
#undef KINEOGRAPH_CPU_FORWARD_WALK_INL_H_
#else
#define KINEOGRAPH_CPU_FORWARD_WALK_INL_H_
#endif

#include "engine/cpu/forward/windows-inl.h"
#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/tile/from_image-inl.h"
#include "engine/cpu/tile/to_image-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

template <Arithmetic kArithmetic>
class Walk : public WindowWalk<kArithmetic> {
  using Base = WindowWalk<kArithmetic>;

 public:
  Walk(const Call& call, const Tile& tile, Team& team, Workspace& own)
      : Base(call, tile, team, own), leaves_pairs_(!Discrete() && !is_tall(shape_)) {}

  /// `gathered`: the walk of another tile has left this one's normalised input in own.attended. Returns true if the
  /// next tile's input is already gathered there.
  bool Run(bool gathered, TileSource* source) {
    if (Discrete())
      Embed();
    else
      ProjectIn(gathered);
    for (std::size_t layer = 0; layer < model_.blocks.size(); ++layer) {
      AttentionPhases(layer);
      if (layer + 1 == model_.blocks.size()) Invite(source);
      FeedForwardPhase(layer);
    }
    if (Discrete())
      Classify();
    else
      ProjectOut();
    return arrival_.Finish();
  }

 protected:
  using Base::AddToResidual, Base::AttentionPhases, Base::Discrete, Base::InnerRows;
  using Base::call_, Base::model_, Base::own_, Base::runs_, Base::shape_;
  using Base::Modulate, Base::Normalise, Base::Normed, Base::OperandPanel, Base::Product, Base::Steps, Base::Stream;
  using Base::X, Base::XPanel;

  /// Input -> normalised operands -> proj_in -> x.
  void ProjectIn(bool gathered) {
    Steps([&](PanelRange panels, Workspace& mine) {
      const std::size_t words = OperandPanel(model_.channels);
      const Operands image =
          is_tall(shape_) ? Operands{mine.attended.data(), words, panels.begin} : Operands{own_.attended.data(), words};
      if (!gathered) DispatchPixels(call_.input.dtype, [&]<class T>(T) { Gather<T>(panels, image); });
      Product(model_.proj_in, image(panels.begin), model_.channels, panels,
              ToRows<Sum::store>{own_.x.data() + panels.begin * XPanel(), XPanel()});
    });
  }

  template <class T>
  void Gather(PanelRange panels, const Operands& to) {
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel)
      GatherRows<kArithmetic, T>(call_, PanelPlaces(runs_, shape_, panel), 0, model_.channels, to(panel));
  }

  /// The input of the tile that this thread takes next begins to come in. A tall one's does not fit.
  void Invite(TileSource* source) {
    if (source == nullptr || model_.config.is_discrete() || is_tall(shape_)) return;
    std::size_t blocks = 0;
    for (const PackedLinear& chunk : model_.blocks.back().ff.in) blocks += chunk.blocks.size();
    if (const Tile* const next = source->next(); next != nullptr && !is_tall(next->shape))
      arrival_.Start(call_, *next, own_.attended.data(), shape_.panels() * blocks);
  }

  void FeedForwardPhase(std::size_t layer) {
    FeedForwardPhase(layer, model_.blocks[layer].ff, 2, leaves_pairs_ && layer + 1 == model_.blocks.size());
  }

  /// x += ff(norm(x)). `leaves`: x is left as the pairs that proj_out takes.
  void FeedForwardPhase(std::size_t layer, const PackedFeedForward& ff, std::size_t norm, bool leaves) {
    DispatchActivation(model_.config.activation_fn,
                       [&]<Activation kActivation>() { FeedForward<kActivation>(layer, ff, norm, leaves); });
  }

  template <Activation kActivation>
  void FeedForward(std::size_t layer, const PackedFeedForward& ff, std::size_t norm, bool leaves) {
    const auto chunks = [&](std::size_t begin, std::size_t end) {
      Steps([&, begin, end](PanelRange panels, const Worker& worker) {
        if (begin == 0) Normalise(layer, norm, panels, worker.memory);
        for (std::size_t chunk = begin; chunk < end; ++chunk)
          FeedForwardChunk<kActivation>(layer, ff, chunk, norm, leaves, panels, worker);
      });
    };
    if (is_tall(shape_)) return chunks(0, ff.in.size());
    // A phase a chunk, so that help is never far off.
    for (std::size_t chunk = 0; chunk < ff.in.size(); ++chunk) chunks(chunk, chunk + 1);
  }

  template <Activation kActivation>
  void FeedForwardChunk(std::size_t layer, const PackedFeedForward& ff, std::size_t chunk, std::size_t norm,
                        bool leaves, PanelRange panels, const Worker& worker) {
    Workspace& mine = worker.memory;
    Product(ff.in[chunk], Normed(panels.begin, mine)(panels.begin), model_.inner, panels,
            ToHidden<kArithmetic, kActivation, Arrival<kArithmetic>>{mine.block.data(), mine.hidden.data(),
                                                                     OperandPanel(model_.hidden_chunk),
                                                                     worker.owns_tile ? &arrival_ : nullptr});
    const float* gate = norm == 2 ? Modulate(layer).gate_ff : nullptr;
    if (is_paired(kArithmetic) && leaves && chunk + 1 == ff.in.size())
      Product(ff.out[chunk], mine.hidden.data(), model_.hidden_chunk, panels,
              ToLastPairs{X(panels.begin), XPanel(), gate, Normed(panels.begin, mine)(panels.begin)});
    else
      AddToResidual(ff.out[chunk], mine.hidden.data(), model_.hidden_chunk, panels, gate);
  }

  void ProjectOut() {
    DispatchPixels(call_.input.dtype, [&]<class In>(In) {
      DispatchPixels(call_.output.dtype, [&]<class Out>(Out) {
        Steps([&](PanelRange panels, Workspace& mine) {
          ToImage<kArithmetic, In, Out> output(call_, runs_, shape_, panels.begin, mine.block.data());
          Product(model_.proj_out, LastOperands(panels, mine), model_.inner, panels, output);
          output.Finish();
        });
      });
    });
  }

  /// The residual stream as operands of proj_out, of a range's first panel.
  const std::uint32_t* LastOperands(PanelRange panels, Workspace& mine) {
    const bool left = is_paired(kArithmetic) && leaves_pairs_ && !model_.blocks.empty();  // by the last block
    return left ? Normed(panels.begin, mine)(panels.begin) : Base::AsPanels(Stream(), panels, mine);
  }

  /// Discrete input.
  void Embed() {
    this->Panels([&](PanelRange panels, const Worker&) { this->EmbedPanels(Stream(), panels); });
  }

  /// norm_out, out and log_softmax over the classes, panel by panel.
  void Classify() {
    this->Panels([&](PanelRange panels, Workspace& mine) {
      for (std::size_t panel = panels.begin; panel < panels.end; ++panel) {
        const Operands normed{mine.normed.data(), OperandPanel(model_.inner), panel};
        this->template NormaliseOutPanel<kArithmetic>(Stream(), normed, panel);
        // Rows of one panel, wherever the panel: every one is written there and used at once.
        const Rows logits{mine.scores.data(), 0};
        Product(model_.out, normed.data, model_.inner, {panel, panel + 1},
                ToRows<Sum::store>{logits.data, logits.panel});
        this->WriteClasses(logits, {panel, panel + 1});
      }
    });
  }

  bool leaves_pairs_;  ///< the last feed-forward leaves x as the pairs that proj_out takes

 private:
  Arrival<kArithmetic> arrival_;  ///< the owner's alone
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

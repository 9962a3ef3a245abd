// The attentions of a block, over all of a tile's frames or in windows of them.
#if defined(KINEOGRAPH_CPU_FORWARD_WINDOWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_FORWARD_WINDOWS_INL_H_
#undef KINEOGRAPH_CPU_FORWARD_WINDOWS_INL_H_
#else
#define KINEOGRAPH_CPU_FORWARD_WINDOWS_INL_H_
#endif

#include <utility>

#include "engine/cpu/forward/attention-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// FreeNoise: a window is a smaller tile. Its part of the residual stream is copied, so that it begins with a panel,
/// and goes through the attentions; the average over windows becomes the stream behind the last one.
///
/// Linear maps that windows share are not repeated in each of them. The first attention's input is the same frame in
/// every window but for its position: see ClipProjections. The last attention's to_out is behind the average instead of
/// before it: the average of x_w + W a_w is that of x_w plus W times that of a_w.
template <Arithmetic kArithmetic>
class WindowWalk : public AttentionWalk<kArithmetic> {
  using Base = AttentionWalk<kArithmetic>;

 protected:
  using Base::Base;
  using Base::call_, Base::model_, Base::own_, Base::shape_, Base::stream_;

  void AttentionPhases(std::size_t layer) {
    const ContextWindows& context = call_.inputs->context;
    const std::size_t last = Base::HasAttention(layer, 1) ? 1 : 0;
    if (context.empty()) {
      for (std::size_t which = 0; which <= last; ++which) Base::AttentionPhase(layer, which);
      return;
    }
    const TileShape whole = shape_;
    ClipProjections clip = ProjectClip(layer);
    shape_.frames = static_cast<std::size_t>(context.length);
    stream_ = {own_.window.data(), Base::XPanel()};
    for (std::size_t window = 0; window < context.windows.size(); ++window) {
      clip.first = static_cast<std::size_t>(context.windows[window].first);
      EnterWindow(window, clip);
      for (std::size_t which = 0; which < last; ++which) Base::AttentionPhase(layer, which);
      AverageStream(layer, last);
      const WindowAverage average = AverageOf(own_.attended_average);
      Base::average_ = &average;
      Base::AttendHeads(layer, last);
      Base::average_ = nullptr;
    }
    shape_ = whole;
    std::swap(own_.x, own_.averaged);
    stream_ = Base::WholeStream();
    Base::window_ = 0;
    Base::clip_ = nullptr;
    const Rows attended{own_.attended_average.data(), Base::XPanel()};
    Base::Steps([&](PanelRange panels, Workspace& mine) {
      Base::AddAttended(layer, last, Base::AsPanels(attended, panels, mine), panels);
    });
  }

 private:
  /// A vector of rows [panel][channel][2N], which are kPanel apart.
  static float* VectorOf(const Rows& rows, std::size_t v) { return rows.data + PlaceOf(v, rows.panel); }

  ClipProjections ProjectClip(std::size_t layer) {
    const PackedAttention& attention = model_.blocks[layer].attn[0];
    const Affine& affine = Base::Modulate(layer).norm[0];
    const auto length = static_cast<std::size_t>(call_.inputs->context.length);
    const ClipProjections clip{own_.clip_heads.data(), clip_head(model_, shape_, length), shape_.runs,
                               affine.frame_stride != 0};
    const auto position = [&](std::size_t frame, std::size_t c) {
      return affine.shift[frame * affine.frame_stride + c] - affine.shift[c];
    };
    if (clip.positioned) TokensAsOperands<kArithmetic>(length, model_.inner, position, own_.positions.data());
    Base::alike_ = true;
    Base::NormaliseForHeads(layer, 0);
    Base::team_.for_each(model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      for (std::size_t head = begin; head < end; ++head) ProjectHeadOfClip(layer, attention, clip, head, mine);
    });
    Base::alike_ = false;
    return clip;
  }

  void ProjectHeadOfClip(std::size_t layer, const PackedAttention& attention, const ClipProjections& clip,
                         std::size_t head, Workspace& mine) {
    float* const to = clip.Head(head);
    Base::ProjectFrames(layer, 0, head, mine, Base::StoreAt(to, clip.head.query_panel),
                        Base::StoreAt(to + clip.head.kv(), clip.head.kv_panel));
    if (!clip.positioned) return;
    const auto length = static_cast<std::size_t>(call_.inputs->context.length);
    clip.template ProjectPositions<kArithmetic>(attention.query[head], own_.positions.data(), length,
                                                to + clip.head.query_positions());
    clip.template ProjectPositions<kArithmetic>(attention.kv[head], own_.positions.data(), length,
                                                to + clip.head.kv_positions());
  }

  /// The window's frames of the stream; behind its last vector that one again: finite numbers that are not read.
  void EnterWindow(std::size_t window, const ClipProjections& clip) {
    Base::window_ = window;
    Base::clip_ = &clip;
    const Rows x = Base::WholeStream();
    const std::size_t first = clip.first * shape_.runs;
    Base::Panels([&](PanelRange panels, Workspace&) {
      for (std::size_t v = 2 * panels.begin; v < 2 * panels.end; ++v) {
        const float* from = VectorOf(x, first + std::min(v, shape_.vectors() - 1));
        float* to = VectorOf(stream_, v);
        for (std::size_t c = 0; c < Base::InnerRows(); ++c)
          hn::Store(hn::Load(D(), from + c * kPanel), D(), to + c * kPanel);
      }
    });
  }

  /// The average that the window adds its shares to.
  WindowAverage AverageOf(Buffer<float>& rows) const {
    const ContextWindows& context = call_.inputs->context;
    const ContextWindow& window = context.windows[Base::window_];
    const auto count = [](std::int64_t frames) { return static_cast<std::size_t>(frames); };
    return {rows.data(),
            Base::XPanel(),
            shape_.runs,
            count(window.first),
            count(window.fresh),
            count(window.counted),
            &context.shares[Base::window_ * shape_.frames]};
  }

  /// Adds the window's stream to the average. to_out's bias, which comes once behind it, is right for shares that sum
  /// to 1; those of the flush window's frames, which no other window has, may not.
  void AverageStream(std::size_t layer, std::size_t last) {
    const WindowAverage average = AverageOf(own_.averaged);
    const float* const bias = model_.blocks[layer].attn[last].out_bias.data();
    const float* const gate = Base::Gate(layer, last);
    Base::Panels([&](PanelRange panels, Workspace&) {
      const std::size_t end = std::min(2 * panels.end, shape_.vectors());
      for (std::size_t v = 2 * panels.begin; v < end; ++v) {
        const std::size_t frame = v / shape_.runs;
        const double share = average.shares[frame];
        const bool lacks = average.counted != 0 && frame >= average.counted && share != 1.0;
        const float* const from = VectorOf(stream_, v);
        for (std::size_t c = 0; c < Base::InnerRows(); ++c) {
          Vec x[1] = {hn::Load(D(), from + c * kPanel)};
          if (lacks && c < model_.inner) {
            const double whole = (gate == nullptr ? 1.0 : static_cast<double>(gate[c])) * static_cast<double>(bias[c]);
            x[0] = hn::Add(x[0], hn::Set(D(), static_cast<float>(whole * (share - 1.0) / share)));
          }
          average.Add(frame, v % shape_.runs, c, x);
        }
      }
    });
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

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
/// goes through the attentions, and is added to the average, which becomes the stream behind the last window.
template <Arithmetic kArithmetic>
class WindowWalk : public AttentionWalk<kArithmetic> {
  using Base = AttentionWalk<kArithmetic>;

 protected:
  using Base::Base;
  using Base::call_, Base::own_, Base::shape_, Base::stream_, Base::window_;

  void AttentionPhases(std::size_t layer) {
    const ContextWindows& context = call_.inputs->context;
    if (context.empty()) return Attentions(layer);
    const TileShape whole = shape_;
    for (window_ = 0; window_ < context.windows.size(); ++window_) {
      shape_.frames = static_cast<std::size_t>(context.length);
      stream_ = {own_.window.data(), Base::XPanel()};
      Enter(context.windows[window_]);
      Attentions(layer);
      Leave(context);
    }
    window_ = 0;
    shape_ = whole;
    std::swap(own_.x, own_.averaged);
    stream_ = Base::WholeStream();
  }

 private:
  void Attentions(std::size_t layer) {
    for (std::size_t which = 0; which < 2; ++which)
      if (Base::HasAttention(layer, which)) Base::AttentionPhase(layer, which);
  }

  /// A vector of rows [panel][channel][2N], which are kPanel apart.
  static float* VectorOf(const Rows& rows, std::size_t v) { return rows(v / 2) + v % 2 * kLanes; }

  /// The window's frames; behind its last vector that one again: finite numbers that are not read.
  void Enter(const ContextWindow& window) {
    const Rows x = Base::WholeStream();
    const std::size_t first = static_cast<std::size_t>(window.first) * shape_.runs;
    Base::Panels([&](PanelRange panels, Workspace&) {
      for (std::size_t v = 2 * panels.begin; v < 2 * panels.end; ++v) {
        const float* from = VectorOf(x, first + std::min(v, shape_.vectors() - 1));
        float* to = VectorOf(stream_, v);
        for (std::size_t c = 0; c < Base::InnerRows(); ++c)
          hn::Store(hn::Load(D(), from + c * kPanel), D(), to + c * kPanel);
      }
    });
  }

  void Leave(const ContextWindows& context) {
    const ContextWindow& window = context.windows[window_];
    const Rows averaged{own_.averaged.data(), Base::XPanel()};
    const std::size_t first = static_cast<std::size_t>(window.first) * shape_.runs;
    Base::Panels([&](PanelRange panels, Workspace&) {
      const std::size_t end = std::min(2 * panels.end, shape_.vectors());
      for (std::size_t v = 2 * panels.begin; v < end; ++v) {
        const auto frame = static_cast<std::int64_t>(v / shape_.runs);
        if (frame < window.counted) continue;
        const Vec share = hn::Set(D(), static_cast<float>(context.share(window_, frame)));
        const float* from = VectorOf(stream_, v);
        float* to = VectorOf(averaged, first + v);
        if (frame >= window.fresh)
          for (std::size_t c = 0; c < Base::InnerRows(); ++c)
            hn::Store(hn::Mul(share, hn::Load(D(), from + c * kPanel)), D(), to + c * kPanel);
        else
          for (std::size_t c = 0; c < Base::InnerRows(); ++c)
            hn::Store(hn::MulAdd(share, hn::Load(D(), from + c * kPanel), hn::Load(D(), to + c * kPanel)), D(),
                      to + c * kPanel);
      }
    });
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

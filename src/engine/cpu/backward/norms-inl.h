// The norms, gates and residual sums of a block, on the way there and back.
#if defined(KINEOGRAPH_CPU_BACKWARD_NORMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_NORMS_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_NORMS_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_NORMS_INL_H_
#endif

#include "engine/cpu/backward/tile-inl.h"
#include "engine/cpu/kernels/norm_backward-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

class BackwardNorms : public BackwardTile {
 protected:
  using BackwardTile::BackwardTile;

  void Normalise(std::size_t which, const Rows& x, const Rows& n, PanelRange range) const {
    NormalisePanels<Arithmetic::f32>(layer_, which, x, AsOperands(n), range);
  }

  /// d_x += the gradient through n = norm(x), of d_normed; and the sums that its parameters need.
  void NormaliseBackward(std::size_t which, const Rows& x) {
    const auto d_n = Read<Value::d_normed>();
    const auto d_x = Read<Value::d_x>();
    float* moments = at_.moments.data();
    Panels([&](PanelRange range, const Worker&) {
      for (std::size_t panel = range.begin; panel < range.end; ++panel)
        LayerNormBackwardPanel(x(panel), d_n(panel), inner_, model_.blocks[layer_].norm_epsilon[which],
                               Modulate(layer_).norm[which].scale, d_x(panel), moments + panel * 2 * kPanel);
    });
    AddNormSums(backward_.sums->norms[(layer_ * 3 + which) * call_.videos + video_], x, d_n);
  }

  void AddNormSums(NormSums& sums, const Rows& x, const Rows& d_n) {
    if (sums.along.empty()) return;
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

  /// to = from + gate * y; null for a gate of 1.
  void AddGated(const Rows& from, const float* gate, const Rows& y, const Rows& to, PanelRange range) const {
    const D d;
    for (std::size_t panel = range.begin; panel < range.end; ++panel)
      for (std::size_t i = 0; i < 2 * pad_channels(inner_); ++i) {
        const Vec factor = hn::Set(d, gate == nullptr ? 1.0f : gate[i / 2]);
        hn::Store(hn::MulAdd(factor, hn::Load(d, y(panel) + i * kLanes), hn::Load(d, from(panel) + i * kLanes)), d,
                  to(panel) + i * kLanes);
      }
  }

  /// d_y = gate * d_x
  void ScaleByGate(const float* gate, const Rows& d_x, const Rows& d_y, PanelRange range) const {
    const D d;
    for (std::size_t panel = range.begin; panel < range.end; ++panel)
      for (std::size_t i = 0; i < 2 * pad_channels(inner_); ++i)
        hn::Store(hn::Mul(hn::Set(d, gate == nullptr ? 1.0f : gate[i / 2]), hn::Load(d, d_x(panel) + i * kLanes)), d,
                  d_y(panel) + i * kLanes);
  }

  /// The gate's own gradient: the tokens' sum of d_x y.
  void AddGateSums(std::vector<double>& sums, const Rows& d_x, const Rows& y) {
    if (sums.empty()) return;
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

  /// Of attn1 (0) or the feed-forward (1); empty where they are not wanted, or there is no gate.
  std::vector<double>& GateSums(std::size_t which) const {
    return backward_.sums->gates[(layer_ * 2 + which) * call_.videos + video_];
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

// Products that the windows of a clip share: q, k and v of every frame, and of every position in a window.
#if defined(KINEOGRAPH_CPU_TILE_CLIP_PROJECTIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_TILE_CLIP_PROJECTIONS_INL_H_
#undef KINEOGRAPH_CPU_TILE_CLIP_PROJECTIONS_INL_H_
#else
#define KINEOGRAPH_CPU_TILE_CLIP_PROJECTIONS_INL_H_
#endif

#include <algorithm>

#include "base/assert.h"
#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/tile/workspace.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// A block's first attention projects n(x) + p, a frame's normalised channels and its position in the window. The
/// product is linear: W (n(x) + p) = W n(x) + W p, and only the second term is a window's. So every frame is projected
/// once, with the shift of position 0, and W (p - p0) is added window by window.
struct ClipProjections {
  float* heads;  ///< [head], each as `head` says
  ClipHead head;
  std::size_t runs;
  bool positioned = false;
  std::size_t first = 0;  ///< the window's first frame

  float* Head(std::size_t index) const { return heads + index * head.floats(); }

  /// A head's products of the positions' operands, less that of position 0, which takes out the bias as well.
  template <Arithmetic kArithmetic>
  void ProjectPositions(const PackedLinear& linear, const std::uint32_t* operands, std::size_t count, float* to) const {
    ProjectOperands<kArithmetic>(linear, operands, count, to);
    const std::size_t panel_floats = linear.rows * kPanel;
    KINEOGRAPH_ASSERT(panel_floats == head.query_panel || panel_floats == head.kv_panel);
    KINEOGRAPH_ASSERT(count <= head.position_panels * kPanel);
    for (std::size_t row = 0; row < linear.rows; ++row) {
      const Vec zeroth = hn::Set(D(), to[row * kPanel]);
      for (std::size_t panel = 0; panel < head.position_panels; ++panel)
        for (std::size_t v = 0; v < kPanel; v += kLanes) {
          float* const at = to + panel * panel_floats + row * kPanel + v;
          hn::Store(hn::Sub(hn::Load(D(), at), zeroth), D(), at);
        }
    }
  }

  /// A window's share of one head goes to the epilogues that its products would go to.
  template <class ToQuery, class ToKeys>
  void TakeHead(const TileShape& window, std::size_t index, ToQuery to_query, ToKeys to_keys) const {
    const float* const from = Head(index);
    Take(window, from, head.query_panel, from + head.query_positions(), to_query);
    Take(window, from + head.kv(), head.kv_panel, from + head.kv_positions(), to_keys);
  }

 private:
  /// Rows of a panel's two vectors, as a kernel's sums: a frame's, and its position's in one lane.
  struct Sums {
    const float *rows[2], *position[2];
    std::size_t position_step;  ///< kPanel, or 0: there are none
    HWY_INLINE Vec operator()(std::size_t i, std::size_t v) const {
      return hn::Add(hn::Load(D(), rows[v] + i * kPanel), hn::Set(D(), position[v][i * position_step]));
    }
  };

  template <class To>
  void Take(const TileShape& window, const float* rows, std::size_t panel_floats, const float* positions,
            To& to) const {
    static constexpr float kNone = 0.0f;
    const std::size_t count = panel_floats / kPanel;
    for (std::size_t panel = 0; panel < window.panels(); ++panel) {
      Sums sums{{}, {&kNone, &kNone}, 0};
      for (std::size_t slot = 0; slot < 2; ++slot) {
        const std::size_t v = std::min(2 * panel + slot, window.vectors() - 1), frame = v / runs;
        sums.rows[slot] = rows + PlaceOf(first * runs + v, panel_floats);
        if (positioned) sums.position[slot] = positions + frame / kPanel * panel_floats + frame % kPanel;
      }
      if (positioned) sums.position_step = kPanel;
      to.Take(sums, 0, count, panel, 0, count);
    }
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

// One tile at work: the base of every walk. A walk adds the order of its layers and the memory of its values.
#if defined(KINEOGRAPH_CPU_TILE_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_TILE_TILE_INL_H_
#undef KINEOGRAPH_CPU_TILE_TILE_INL_H_
#else
#define KINEOGRAPH_CPU_TILE_TILE_INL_H_
#endif

#include <cmath>
#include <utility>

#include "base/assert.h"
#include "engine/cpu/kernels/attention-inl.h"
#include "engine/cpu/kernels/norm-inl.h"
#include "engine/cpu/tile/image-inl.h"
#include "engine/cpu/tile/tile.h"
#include "engine/epsilons.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// f32 rows of a tile, [panel][row][2N].
struct Rows {
  float* data = nullptr;
  std::size_t panel = 0;  ///< floats between two panels
  float* operator()(std::size_t p) const { return data + p * panel; }
};

/// Operands of a product, [panel][word][2N]: see StoreOperandPair.
struct Operands {
  std::uint32_t* data = nullptr;
  std::size_t panel = 0;  ///< words between two panels
  std::size_t first = 0;  ///< the tile's panel at data
  std::uint32_t* operator()(std::size_t p) const { return data + (p - first) * panel; }
};

class TileBase {
 protected:
  TileBase(const Call& call, const Tile& tile, Team& team)
      : call_(call),
        model_(*call.model),
        tile_(tile),
        shape_(tile.shape),
        team_(team),
        video_(tile.first / call.pixels) {
    KINEOGRAPH_ASSERT(tile.count != 0 && tile.count <= shape_.pixels());
    KINEOGRAPH_ASSERT(call.tiles_may_span_videos || tile.first % call.pixels + tile.count <= call.pixels);
  }
  TileBase(const TileBase&) = delete;
  TileBase& operator=(const TileBase&) = delete;

  /// Finds the tile's runs in the input and an output of its extents; `runs` has room for them.
  void Locate(const Image& output, PixelRun* runs) {
    for (std::size_t run = 0; run < shape_.runs; ++run) runs[run] = LocateRun(call_, call_.input, output, tile_, run);
    runs_ = runs;
  }

  std::size_t InnerRows() const { return pad_channels(model_.inner); }
  /// f32 rows as operands of an f32 product.
  static Operands AsOperands(const Rows& rows) { return {reinterpret_cast<std::uint32_t*>(rows.data), rows.panel}; }

  const Modulation& Modulate(std::size_t layer) const { return call_.modulation(layer, video_); }
  bool HasAttention(std::size_t layer, std::size_t which) const {
    return !model_.blocks[layer].attn[which].out.empty();
  }
  bool Discrete() const { return model_.config.is_discrete(); }
  bool Conditioned(std::size_t which) const { return which == 1 && call_.context_tokens != 0; }
  std::size_t Keys(std::size_t which) const { return Conditioned(which) ? call_.context_tokens : shape_.frames; }
  std::size_t KeyPanels(std::size_t which) const { return (Keys(which) * shape_.runs + 1) / 2; }
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(model_.head_dim)); }

  /// work(range of [0, count) panels, worker), or over the tile's panels.
  template <class Work>
  void Panels(std::size_t count, Work&& work) {
    team_.for_ranges(count, [&](std::size_t begin, std::size_t end, const Worker& worker) {
      work(PanelRange{begin, end}, worker);
    });
  }
  template <class Work>
  void Panels(Work&& work) {
    Panels(shape_.panels(), std::forward<Work>(work));
  }

  /// norm1, norm2 or norm3 of a layer, as operands.
  template <Arithmetic kArithmetic>
  void NormalisePanels(std::size_t layer, std::size_t which, const Rows& x, const Operands& n, PanelRange range) const {
    NormalisePanels<kArithmetic>(layer, which, Modulate(layer).norm[which], x, n, range);
  }
  template <Arithmetic kArithmetic>
  void NormalisePanels(std::size_t layer, std::size_t which, const Affine& affine, const Rows& x, const Operands& n,
                       PanelRange range) const {
    for (std::size_t panel = range.begin; panel < range.end; ++panel) {
      const auto shift = [&](std::size_t slot) {
        return affine.shift + shape_.frame_of(2 * panel + slot) * affine.frame_stride;
      };
      LayerNormPanel<kArithmetic>(x(panel), model_.inner, model_.blocks[layer].norm_epsilon[which], affine.scale,
                                  shift(0), shift(1), n(panel));
    }
  }

  /// norm_out of a discrete model.
  template <Arithmetic kArithmetic>
  void NormaliseOutPanel(const Rows& x, const Operands& n, std::size_t panel) const {
    LayerNormPanel<kArithmetic>(x(panel), model_.inner, static_cast<float>(kNormOutEpsilon),
                                model_.norm_out_scale.data(), model_.norm_out_shift.data(),
                                model_.norm_out_shift.data(), n(panel));
  }

  /// The conditioning of every pixel -> operands over D, token by token like frames; zeros for lanes without a pixel.
  template <Arithmetic kArithmetic>
  void GatherContext(const Operands& to) {
    const std::size_t vectors = call_.context_tokens * shape_.runs;
    Panels((vectors + 1) / 2, [&](PanelRange range, const Worker&) {
      DispatchPixels(call_.context.dtype, [&]<class T>(T) {
        HWY_ALIGN float even[kLanes], odd[kLanes];
        for (std::size_t v = 2 * range.begin; v < 2 * range.end; ++v) {
          std::uint32_t* row = to(v / 2) + v % 2 * kLanes;
          for (std::size_t c = 0; c < call_.context_dim; c += 2, row += kPairWords<kArithmetic>) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
              const bool there = v < vectors && lane < runs_[v % shape_.runs].valid;
              even[lane] = there ? ContextAt<T>(v, lane, c) : 0.0f;
              odd[lane] = there && c + 1 < call_.context_dim ? ContextAt<T>(v, lane, c + 1) : 0.0f;
            }
            StoreOperandPair<kArithmetic>(hn::Load(D(), even), hn::Load(D(), odd), row);
          }
        }
      });
    });
  }

  /// Row of encoder_hidden_states that a lane of a run attends to.
  std::size_t ContextRow(std::size_t run, std::size_t lane) const {
    return call_.context.per_video ? video_ : tile_.first + run * kLanes + lane;
  }

  /// visit(vector, frame, run) over a range of panels; past the last vector the last one is repeated.
  template <class Visit>
  void EachVector(PanelRange range, Visit&& visit) const {
    for (std::size_t v = 2 * range.begin; v < 2 * range.end; ++v) {
      const std::size_t real = std::min(v, shape_.vectors() - 1);
      visit(v, real / shape_.runs, runs_[real % shape_.runs]);
    }
  }

  // Discrete input: plain loops around the products.

  /// visit(panel, lane of its 2N, row of the image, pixel) for every token of a range of panels.
  template <class Visit>
  void EachToken(PanelRange range, Visit&& visit) const {
    for (std::size_t v = 2 * range.begin; v < std::min(2 * range.end, shape_.vectors()); ++v)
      for (std::size_t lane = 0; lane < runs_[v % shape_.runs].valid; ++lane) {
        const std::size_t flat = tile_.first + v % shape_.runs * kLanes + lane;
        visit(v / 2, v % 2 * kLanes + lane, flat / call_.pixels * call_.frames + v / shape_.runs, flat % call_.pixels);
      }
  }

  std::size_t ClassAt(std::size_t row, std::size_t pixel) const {
    const TensorView& classes = call_.inputs->hidden_states;
    return static_cast<std::size_t>(
        classes.data_as<std::int64_t>()[static_cast<std::int64_t>(row) * classes.strides()[0] +
                                        static_cast<std::int64_t>(pixel) * classes.strides()[1]]);
  }

  /// Class, row and column embeddings -> x; zeros for lanes without a pixel.
  void EmbedPanels(const Rows& x, PanelRange range) const {
    const std::size_t inner = model_.inner;
    std::fill(x(range.begin), x(range.end), 0.0f);
    EachToken(range, [&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
      const float* emb = model_.latent_emb.data() + ClassAt(row, pixel) * inner;
      const float* height = model_.latent_height_emb.data() + (call_.first_row + pixel / call_.width) * inner;
      const float* width = model_.latent_width_emb.data() + pixel % call_.width * inner;
      for (std::size_t c = 0; c < inner; ++c) x(panel)[c * kPanel + lane] = emb[c] + (height[c] + width[c]);
    });
  }

  /// The largest of one token's logits [class][2N], and the log of the sum of e^(logit - largest).
  struct LogSum {
    double log_sum;
    float largest;
    double operator()(float logit) const { return static_cast<double>(logit - largest) - log_sum; }
  };
  LogSum LogSumOf(const float* logits) const {
    const std::size_t classes = model_.classes();
    float largest = logits[0];
    for (std::size_t k = 1; k < classes; ++k) largest = std::max(largest, logits[k * kPanel]);
    double sum = 0.0;
    for (std::size_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(logits[k * kPanel] - largest));
    return {std::log(sum), largest};
  }

  /// Log-probabilities of a panel's logits, to the output.
  void WriteClasses(const Rows& logits, PanelRange range) const {
    EachToken(range, [&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
      const float* from = logits(panel) + lane;
      const LogSum log_probability = LogSumOf(from);
      auto* to = reinterpret_cast<float*>(call_.output.data) + static_cast<std::int64_t>(row) * call_.output.stride_n +
                 static_cast<std::int64_t>(pixel) * call_.output.stride_w;
      for (std::size_t k = 0; k < model_.classes(); ++k)
        to[static_cast<std::int64_t>(k) * call_.output.stride_c] =
            static_cast<float>(log_probability(from[k * kPanel]));
    });
  }

  const Call& call_;
  const PackedModel& model_;
  const Tile& tile_;
  TileShape shape_;
  Team& team_;
  const PixelRun* runs_ = nullptr;  ///< see Locate
  std::size_t video_;               ///< of the whole tile, unless tiles span videos, when nothing depends on it

 private:
  template <class T>
  float ContextAt(std::size_t v, std::size_t lane, std::size_t c) const {
    const ContextTokens& from = call_.context;
    return to_float(reinterpret_cast<const T*>(
        from.data)[static_cast<std::int64_t>(ContextRow(v % shape_.runs, lane)) * from.stride_row +
                   static_cast<std::int64_t>(v / shape_.runs) * from.stride_token +
                   static_cast<std::int64_t>(c) * from.stride_channel]);
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

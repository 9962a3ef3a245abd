// The attentions of a forward, head by head: q, k and v of one head, then its attention at once.
#if defined(KINEOGRAPH_CPU_FORWARD_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_FORWARD_ATTENTION_INL_H_
#undef KINEOGRAPH_CPU_FORWARD_ATTENTION_INL_H_
#else
#define KINEOGRAPH_CPU_FORWARD_ATTENTION_INL_H_
#endif

#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "engine/cpu/kernels/attention-inl.h"
#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/kernels/long_attention-inl.h"
#include "engine/cpu/tile/clip_projections-inl.h"
#include "engine/cpu/tile/tile-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// x += attention(norm(x)), with the residual stream x in the tile's workspace: all of the tile's frames or, while
/// shape_ and stream_ say so, those of a window.
template <Arithmetic kArithmetic>
class AttentionWalk : public TileBase {
 protected:
  AttentionWalk(const Call& call, const Tile& tile, Team& team, Workspace& own)
      : TileBase(call, tile, team), own_(own), stream_(WholeStream()) {
    KINEOGRAPH_ASSERT(shape_.runs <= kMaxRuns);
    Locate(call.output, places_);
  }

  std::size_t XPanel() const { return InnerRows() * kPanel; }
  static std::size_t OperandPanel(std::size_t channels) { return OperandWords<kArithmetic>(channels); }
  Rows WholeStream() const { return {own_.x.data(), XPanel()}; }
  float* X(std::size_t panel) const { return stream_(panel); }
  Rows Stream() const { return stream_; }
  /// LayerNorm's output: the tile's or, if it is tall, that of a thread's panels from `first` on.
  Operands Normed(std::size_t first, Workspace& mine) const {
    const std::size_t words = OperandPanel(model_.inner);
    return is_tall(shape_) ? Operands{mine.normed.data(), words, first} : Operands{own_.normed.data(), words};
  }
  Operands Context() const { return {own_.context.data(), OperandPanel(call_.context_dim)}; }
  /// The channels of one head and run in to_out's operands.
  HeadOutput<kArithmetic> HeadTo(std::size_t head, std::size_t run) const {
    return {own_.attended.data(), OperandPanel(model_.inner), head * model_.head_dim, shape_.runs, run, average_};
  }

  /// A range's panels of f32 rows over the inner channels, as operands of the first: pairs where LayerNorm's output
  /// lies.
  const std::uint32_t* AsPanels(const Rows& rows, PanelRange panels, Workspace& mine) const {
    if constexpr (!is_paired(kArithmetic)) return reinterpret_cast<const std::uint32_t*>(rows(panels.begin));
    const Operands pairs = Normed(panels.begin, mine);
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel)
      PairRows(rows(panel), InnerRows(), pairs(panel));
    return pairs(panels.begin);
  }

  /// work(a few panels, worker) over the tile's panels: as many as there are unless it is tall.
  template <class Work>
  void Steps(Work&& work) {
    if (!is_tall(shape_)) return Panels(std::forward<Work>(work));
    team_.for_steps(shape_.panels(), kStepPanels, [&](std::size_t begin, std::size_t end, const Worker& worker) {
      for (; begin < end; begin += kStepPanels) work(PanelRange{begin, std::min(end, begin + kStepPanels)}, worker);
    });
  }

  void Normalise(std::size_t layer, std::size_t which, PanelRange panels, Workspace& mine) const {
    Affine affine = Modulate(layer).norm[which];
    if (alike_) affine.frame_stride = 0;
    NormalisePanels<kArithmetic>(layer, which, affine, Stream(), Normed(panels.begin, mine), panels);
  }

  /// The normalised stream that all heads of an attention share. Of a tall tile every head makes it anew, a few panels
  /// at a time: little work beside reading it from memory.
  void NormaliseForHeads(std::size_t layer, std::size_t which) {
    if (!is_tall(shape_)) Panels([&](PanelRange panels, Workspace& mine) { Normalise(layer, which, panels, mine); });
  }

  /// project(a range of panels, operands of its first): the normalised stream, for one head.
  template <class Project>
  void EachNormed(std::size_t layer, std::size_t which, Workspace& mine, Project&& project) const {
    const std::size_t panels = shape_.panels(), step = is_tall(shape_) ? kStepPanels : panels;
    for (std::size_t begin = 0; begin < panels; begin += step) {
      const PanelRange range{begin, std::min(panels, begin + step)};
      if (is_tall(shape_)) Normalise(layer, which, range, mine);
      project(range, Normed(begin, mine)(begin));
    }
  }

  /// y = linear(x) for a range of panels, whose first is at x.
  template <class Epilogue>
  void Product(const PackedLinear& linear, const std::uint32_t* x, std::size_t channels, PanelRange range,
               Epilogue&& y) const {
    Gemm<kArithmetic>(linear, x, OperandPanel(channels), {0, range.end - range.begin}, std::forward<Epilogue>(y));
  }

  void AttentionPhase(std::size_t layer, std::size_t which) {
    AttendHeads(layer, which);
    AddHeads(layer, which);
  }

  void AttendHeads(std::size_t layer, std::size_t which) {
    const bool conditioned = Conditioned(which);
    if (clip_ == nullptr || which != 0) NormaliseForHeads(layer, which);
    if (conditioned && !call_.context.per_video && layer == 0 && window_ == 0)
      this->template GatherContext<kArithmetic>(Context());
    if (AttentionProcessor* processor = call_.processors.empty() ? nullptr : call_.processors[2 * layer + which]) {
      ProcessedHeads(layer, which, conditioned, *processor);
    } else {
      // Heads of odd width share words of bf16 pairs: one thread writes them all.
      const bool shared_words = is_paired(kArithmetic) && model_.head_dim % 2 == 1;
      team_.for_each(shared_words ? 1 : model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
        if (shared_words) end = model_.heads;
        for (std::size_t head = begin; head < end; ++head) {
          if (conditioned && call_.context.per_video)
            SharedContextHead(layer, head, mine);
          else
            OwnHead(layer, which, head, mine);
        }
      });
    }
  }

  const float* Gate(std::size_t layer, std::size_t which) const {
    return which == 0 ? Modulate(layer).gate_attn1 : nullptr;
  }

  /// The stream += to_out(the heads' output).
  void AddHeads(std::size_t layer, std::size_t which) {
    Steps([&](PanelRange panels, Workspace&) {
      AddAttended(layer, which, own_.attended.data() + panels.begin * OperandPanel(model_.inner), panels);
    });
  }
  /// The same for a range of panels, the first of them at x.
  void AddAttended(std::size_t layer, std::size_t which, const std::uint32_t* x, PanelRange panels) {
    AddToResidual(model_.blocks[layer].attn[which].out, x, model_.inner, panels, Gate(layer, which));
  }

  /// The stream's panels += linear(x), the first of them at x.
  void AddToResidual(const PackedLinear& linear, const std::uint32_t* x, std::size_t channels, PanelRange panels,
                     const float* gate) {
    if (gate == nullptr)
      Product(linear, x, channels, panels, ToRows<Sum::add>{stream_(panels.begin), stream_.panel});
    else
      Product(linear, x, channels, panels, ToGatedRows{stream_(panels.begin), stream_.panel, gate});
  }

  /// Projects one head's frames: to_query(panel) and, unless a conditioning takes the frames' place, to_keys(panel) are
  /// the epilogues of products whose first panel is that.
  template <class ToQuery, class ToKeys>
  void ProjectFrames(std::size_t layer, std::size_t which, std::size_t head, Workspace& mine, const ToQuery& to_query,
                     const ToKeys& to_keys) const {
    if (clip_ != nullptr && which == 0) return clip_->TakeHead(shape_, head, to_query(0), to_keys(0));
    const PackedAttention& attention = model_.blocks[layer].attn[which];
    EachNormed(layer, which, mine, [&](PanelRange range, const std::uint32_t* x) {
      Product(attention.query[head], x, model_.inner, range, to_query(range.begin));
      if (!Conditioned(which)) Product(attention.kv[head], x, model_.inner, range, to_keys(range.begin));
    });
  }

  /// For ProjectFrames: f32 rows [panel][row][2N].
  static auto StoreAt(float* rows, std::size_t panel_floats) {
    return [=](std::size_t panel) { return ToRows<Sum::store>{rows + panel * panel_floats, panel_floats}; };
  }

  /// Rows of one head's q, k and v, as they lie in a workspace.
  struct HeadBuffers {
    const float *query, *key, *value;
    std::size_t query_panel, key_panel, keys;
  };

  /// Projects one head: q of the frames; k and v of the frames too, or of a per-pixel conditioning.
  HeadBuffers ProjectHead(std::size_t layer, std::size_t which, std::size_t head, Workspace& mine) {
    const PackedAttention& attention = model_.blocks[layer].attn[which];
    const PackedLinear &query = attention.query[head], &kv = attention.kv[head];
    const std::size_t q_panel = query.rows * kPanel, kv_panel = kv.rows * kPanel;
    float* const q = mine.qkv.data();
    float* const k = q + shape_.panels() * q_panel;
    ProjectFrames(layer, which, head, mine, StoreAt(q, q_panel), StoreAt(k, kv_panel));
    if (Conditioned(which))
      Product(kv, own_.context.data(), call_.context_dim, {0, KeyPanels(which)}, ToRows<Sum::store>{k, kv_panel});
    return {q, k, k + model_.head_dim * kPanel, q_panel, kv_panel, Keys(which)};
  }

  /// One head whose keys and values belong to the pixel: the frames themselves, or a per-pixel conditioning.
  void OwnHead(std::size_t layer, std::size_t which, std::size_t head, Workspace& mine) {
    // Where there is a matrix unit, dot products of vectors are slower than multiply-adds.
    if constexpr (kArithmetic == Arithmetic::bf16) {
      if (model_.head_dim % 2 == 0) return OwnHeadInPairs(layer, which, head, mine);
    }
    const HeadBuffers h = ProjectHead(layer, which, head, mine);
    for (std::size_t run = 0; run < shape_.runs; ++run)
      Attend<Arithmetic::f32>(HeadRows{h.query, h.query_panel, shape_.runs, run}, shape_.frames,
                              HeadRows{h.key, h.key_panel, shape_.runs, run},
                              HeadRows{h.value, h.key_panel, shape_.runs, run}, h.keys, model_.head_dim, Scale(),
                              mine.scores.data(), HeadTo(head, run));
  }

  /// Queries and keys become pairs as soon as they are computed.
  void OwnHeadInPairs(std::size_t layer, std::size_t which, std::size_t head, Workspace& mine) {
    const PackedAttention& attention = model_.blocks[layer].attn[which];
    const std::size_t d = model_.head_dim, keys = Keys(which), key_panels = KeyPanels(which);
    const std::size_t pair_panel = d / 2 * kPanel, value_panel = d * kPanel;
    const bool neighbours = shape_.runs == 1;
    float* const query = mine.qkv.data();
    float* const key = query + shape_.panels() * pair_panel;
    float* const value_pairs = key + key_panels * pair_panel;
    float* const value = value_pairs + round_up(keys, 4) / 4 * value_panel;
    // From an even panel on: two are the pairs of one panel of values.
    const auto to_keys = [&](std::size_t panel) {
      float* const values = neighbours ? value_pairs + panel / 2 * value_panel : value + panel * value_panel;
      return ToPairs{key + panel * pair_panel, d, values, d, neighbours};
    };
    ProjectFrames(
        layer, which, head, mine,
        [&](std::size_t panel) {
          return ToPairs{query + panel * pair_panel, d, nullptr, 0, false};
        },
        to_keys);
    if (Conditioned(which))
      Product(attention.kv[head], own_.context.data(), call_.context_dim, {0, key_panels}, to_keys(0));
    for (std::size_t run = 0; run < shape_.runs; ++run) {
      if (!neighbours) PairValues(HeadRows{value, value_panel, shape_.runs, run}, keys, d, value_pairs);
      Attend<kArithmetic>(HeadRows{query, pair_panel, shape_.runs, run}, shape_.frames,
                          HeadRows{key, pair_panel, shape_.runs, run}, HeadRows{value_pairs, value_panel, 1, 0}, keys,
                          d, Scale(), mine.scores.data(), HeadTo(head, run));
    }
  }

  /// One head's queries to what the video's pixels share.
  void ProjectQueries(std::size_t layer, const PackedLinear& query, float* to, Workspace& mine) {
    const std::size_t panel_floats = query.rows * kPanel;
    EachNormed(layer, 1, mine, [&](PanelRange range, const std::uint32_t* x) {
      Product(query, x, model_.inner, range, ToRows<Sum::store>{to + range.begin * panel_floats, panel_floats});
    });
  }

  /// One head whose keys and values are the video's: both products are GEMMs with packed keys and values, in f32.
  void SharedContextHead(std::size_t layer, std::size_t head, Workspace& mine) {
    const PackedLinear& query = model_.blocks[layer].attn[1].query[head];
    const SharedContext& context = call_.shared_context[layer * call_.videos + video_];
    const std::size_t panel_floats = query.rows * kPanel;
    const std::size_t keys = context.keys[head].rows;  // padded
    float* const q = mine.qkv.data();
    ProjectQueries(layer, query, q, mine);
    for (std::size_t panel = 0; panel < shape_.panels(); ++panel) {
      float* scores = mine.scores.data();
      const auto* operand = reinterpret_cast<const std::uint32_t*>(q + panel * panel_floats);
      Gemm<Arithmetic::f32>(context.keys[head], operand, 0, {0, 1}, ToRows<Sum::store>{scores, 0});
      for (std::size_t slot = 0; slot < 2; ++slot)
        SoftmaxLanes(scores + slot * kLanes, call_.context_tokens, kPanel, Scale());
      std::fill(scores + call_.context_tokens * kPanel, scores + keys * kPanel, 0.0f);
      float* out = scores + keys * kPanel;
      Gemm<Arithmetic::f32>(context.values[head], reinterpret_cast<const std::uint32_t*>(scores), 0, {0, 1},
                            ToRows<Sum::store>{out, 0});
      for (std::size_t slot = 0; slot < 2 && 2 * panel + slot < shape_.vectors(); ++slot) {
        const std::size_t v = 2 * panel + slot;
        StoreHead(HeadTo(head, v % shape_.runs), v / shape_.runs, model_.head_dim,
                  [&](std::size_t e) KINEOGRAPH_ATTR { return hn::Load(D(), out + e * kPanel + slot * kLanes); });
      }
    }
  }

  /// The slower road: q, k, v in the layout of AttentionCall for the processor, and its output back. A conditioning
  /// that the video's pixels share is repeated for each.
  void ProcessedHeads(std::size_t layer, std::size_t which, bool conditioned, AttentionProcessor& processor) {
    const auto extent = [](std::size_t n) { return static_cast<std::int64_t>(n); };
    const std::size_t keys = Keys(which);
    const Shape queries{extent(tile_.count), extent(model_.heads), extent(shape_.frames), extent(model_.head_dim)};
    Tensor query(DType::f32, queries), output(DType::f32, queries);
    Tensor key(DType::f32, {queries[0], queries[1], extent(keys), queries[3]}), value(DType::f32, key.shape());
    for (std::size_t head = 0; head < model_.heads; ++head)
      if (conditioned && call_.context.per_video)
        CopySharedHead(layer, head, query, key, value);
      else
        CopyOwnHead(layer, which, head, query, key, value);
    AttentionCall arguments;
    const std::string name = attention_name(layer, which + 1);
    arguments.name = name;
    arguments.layer = extent(layer);
    arguments.attention = extent(which + 1);
    arguments.video = extent(video_);
    arguments.num_videos = extent(call_.videos);
    arguments.first_pixel = extent(tile_.first % call_.pixels);
    arguments.num_pixels = extent(call_.pixels);
    arguments.window = extent(window_);
    arguments.num_windows = extent(std::max<std::size_t>(1, call_.inputs->context.windows.size()));
    arguments.scale = 1.0 / std::sqrt(static_cast<double>(model_.head_dim));
    arguments.query = query;
    arguments.key = key;
    arguments.value = value;
    arguments.output = output.mutable_view();
    arguments.cross_attention_kwargs = call_.inputs->cross_attention_kwargs;
    arguments.forward = call_.inputs->forward;
    processor(arguments);
    StoreProcessed(output);
  }

  /// One head's rows [panel][row][2N] of `tokens` -> (sequences, heads, tokens, head_dim).
  void CopyRows(const float* from, std::size_t panel_floats, std::size_t tokens, std::size_t head, Tensor& to) const {
    const std::size_t d = model_.head_dim;
    for (std::size_t p = 0; p < tile_.count; ++p) {
      const HeadRows rows{from, panel_floats, shape_.runs, p / kLanes};
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t e = 0; e < d; ++e)
          to.data_as<float>()[((p * model_.heads + head) * tokens + t) * d + e] = rows(t)[e * kPanel + p % kLanes];
    }
  }

  void CopyOwnHead(std::size_t layer, std::size_t which, std::size_t head, Tensor& query, Tensor& key, Tensor& value) {
    const HeadBuffers h = ProjectHead(layer, which, head, own_);
    CopyRows(h.query, h.query_panel, shape_.frames, head, query);
    CopyRows(h.key, h.key_panel, h.keys, head, key);
    CopyRows(h.value, h.key_panel, h.keys, head, value);
  }

  void CopySharedHead(std::size_t layer, std::size_t head, Tensor& query, Tensor& key, Tensor& value) {
    const PackedLinear& q = model_.blocks[layer].attn[1].query[head];
    ProjectQueries(layer, q, own_.qkv.data(), own_);
    CopyRows(own_.qkv.data(), q.rows * kPanel, shape_.frames, head, query);
    const SharedContext& context = call_.shared_context[layer * call_.videos + video_];
    const std::size_t keys = call_.context_tokens, d = model_.head_dim;
    for (std::size_t p = 0; p < tile_.count; ++p)
      for (std::size_t t = 0; t < keys; ++t)
        for (std::size_t e = 0; e < d; ++e) {
          const std::size_t at = ((p * model_.heads + head) * keys + t) * d + e;
          key.data_as<float>()[at] = PackedWeight(context.keys[head], t, e);
          value.data_as<float>()[at] = PackedWeight(context.values[head], e, t);
        }
  }

  /// (sequences, heads, F, head_dim) -> to_out's operands.
  void StoreProcessed(const Tensor& output) {
    const std::size_t d = model_.head_dim, heads = model_.heads, frames = shape_.frames;
    HWY_ALIGN float lanes[kLanes];
    for (std::size_t run = 0; run < shape_.runs; ++run)
      for (std::size_t head = 0; head < heads; ++head)
        for (std::size_t f = 0; f < frames; ++f)
          for (std::size_t e = 0; e < d; ++e) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
              const std::size_t p = run * kLanes + lane;
              lanes[lane] = p < tile_.count ? output.data_as<float>()[((p * heads + head) * frames + f) * d + e] : 0.0f;
            }
            const Vec one[1] = {hn::Load(D(), lanes)};
            HeadTo(head, run).Store(f, e, one);
          }
  }

  static float PackedWeight(const PackedLinear& linear, std::size_t row, std::size_t col) {
    for (const auto& block : linear.blocks)
      if (row < block.row + block.rows)
        return std::bit_cast<float>(linear.weights[block.offset + col * block.rows + (row - block.row)]);
    return 0.0f;
  }

  Workspace& own_;
  Rows stream_;
  std::size_t window_ = 0;                  ///< index
  bool alike_ = false;                      ///< all frames are normalised with the shift of the first
  const ClipProjections* clip_ = nullptr;   ///< in a window: q, k and v of the first attention, of the whole clip
  const WindowAverage* average_ = nullptr;  ///< where the heads' output goes in a window's last attention

 private:
  PixelRun places_[kMaxRuns];
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

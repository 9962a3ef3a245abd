// A tile's walk through a segment: see rows.h.
#if defined(KINEOGRAPH_CPU_SPATIAL_WALK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_SPATIAL_WALK_INL_H_
#undef KINEOGRAPH_CPU_SPATIAL_WALK_INL_H_
#else
#define KINEOGRAPH_CPU_SPATIAL_WALK_INL_H_
#endif

#include <limits>
#include <vector>

#include "base/half.h"
#include "engine/cpu/forward/walk-inl.h"
#include "engine/cpu/kernels/online_attention-inl.h"
#include "engine/cpu/spatial/pack_keys-inl.h"
#include "engine/cpu/spatial/rows.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

template <Arithmetic kArithmetic>
class SegmentWalk : public Walk<kArithmetic> {
  using Base = Walk<kArithmetic>;
  using Base::call_, Base::model_, Base::tile_, Base::shape_, Base::team_, Base::own_, Base::runs_, Base::video_;
  static constexpr Arithmetic kAttends = attention_arithmetic(kArithmetic);

 public:
  SegmentWalk(const RowsCall& rows, const Segment& segment, const Tile& tile, Team& team, Workspace& own)
      : Base(segment.over_frames ? rows.clips : rows.rows, tile, team, own), rows_(rows), segment_(segment) {
    // The stream is read once more where it is blended, or kept.
    Base::leaves_pairs_ = segment.end == Segment::End::output && !segment.over_frames && !is_tall(shape_);
  }

  void Run() {
    if (segment_.begin == Segment::Begin::input)
      Base::ProjectIn(false);
    else
      LoadStream();
    if (segment_.over_frames)
      TemporalBlock();
    else
      for (std::size_t i = segment_.first; i < segment_.last; ++i) Take(rows_.steps[i]);
    if (segment_.end == Segment::End::output) return Base::ProjectOut();
    const bool moved = segment_.begin == Segment::Begin::input || segment_.first != segment_.last;
    if (moved || segment_.over_frames) StoreStream();
    if (segment_.end == Segment::End::keys) StoreKeys(rows_.steps[segment_.last]);
  }

 private:
  std::size_t RowOf(std::size_t v) const { return video_ * call_.frames + shape_.frame_of(v); }
  /// The pixel of a vector's first lane.
  std::size_t PixelOf(std::size_t v) const { return tile_.first % call_.pixels + v % shape_.runs * kLanes; }
  /// A vector's channels in the stream, [I][N]; past the last vector those of the last.
  float* StreamOf(std::size_t v) const {
    v = std::min(v, shape_.vectors() - 1);
    const std::size_t run = (RowOf(v) - rows_.first_row) * rows_.runs + PixelOf(v) / kLanes;
    return const_cast<float*>(rows_.stream.data()) + run * Base::InnerRows() * kLanes;
  }

  /// visit(where the stream has a vector's channel, where the tile has it, vector, channel)
  template <class Visit>
  void EachChannel(Visit&& visit) {
    Base::Panels([&](PanelRange panels, Workspace&) {
      for (std::size_t v = 2 * panels.begin; v < 2 * panels.end; ++v) {
        float* const stream = StreamOf(v);
        float* const x = Base::X(v / 2) + v % 2 * kLanes;
        for (std::size_t c = 0; c < Base::InnerRows(); ++c) visit(stream + c * kLanes, x + c * kPanel, v, c);
      }
    });
  }
  void LoadStream() {
    EachChannel([](const float* stream, float* x, std::size_t, std::size_t)
                    KINEOGRAPH_ATTR { hn::Store(hn::Load(D(), stream), D(), x); });
  }
  void StoreStream() {
    EachChannel([&](float* stream, const float* x, std::size_t v, std::size_t) KINEOGRAPH_ATTR {
      if (v < shape_.vectors()) hn::Store(hn::Load(D(), x), D(), stream);
    });
  }

  void Take(const Step& step) {
    if (step.kind == Step::Kind::feed_forward) return Base::FeedForwardPhase(step.layer);
    AttendTokens(step, [&](std::size_t row, std::size_t head) {
      if (step.over_pixels)
        return KeyValues{&rows_.pixels, rows_.pixel_head(step.turn, row, model_.heads, head),
                         Biases(step).keys(row, head)};
      return KeyValues{&rows_.context.layout, rows_.context.head(step, row, model_.heads, head),
                       Biases(step).keys(row, head)};
    });
  }
  const ScoreBiases& Biases(const Step& step) const { return rows_.biases[step.which]; }

  /// x += attention over tokens that a row's queries share; key_values(row, head) finds them.
  template <class KeyValuesOf>
  void AttendTokens(const Step& step, const KeyValuesOf& key_values) {
    Base::NormaliseForHeads(step.layer, step.which);
    // Heads of odd width share words of bf16 pairs: one thread writes them all.
    const bool shared_words = is_paired(kArithmetic) && model_.head_dim % 2 == 1;
    team_.for_each(shared_words ? 1 : model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      if (shared_words) end = model_.heads;
      for (std::size_t head = begin; head < end; ++head) AttendHead(step, head, key_values, mine);
    });
    Base::AddHeads(step.layer, step.which);
  }

  template <class KeyValuesOf>
  void AttendHead(const Step& step, std::size_t head, const KeyValuesOf& key_values, Workspace& mine) {
    const PackedLinear& query = model_.blocks[step.layer].attn[step.which].query[head];
    auto* const queries = reinterpret_cast<std::uint32_t*>(mine.qkv.data());
    const std::size_t panel_words = query.rows / 2 * kPairWords<kAttends>;
    Base::EachNormed(step.layer, step.which, mine, [&](PanelRange range, const std::uint32_t* x) {
      Base::Product(query, x, model_.inner, range,
                    ToQueries<kAttends>{queries + range.begin * panel_words, panel_words, Base::Scale() * 1.44269504f});
    });
    for (std::size_t frame = 0; frame < shape_.frames;) {
      const KeyValues kv = key_values(RowOf(frame * shape_.runs), head);
      // Neighbouring rows that share keys are one.
      std::size_t end = frame + 1;
      if (!rows_.biases[step.which].per_query() && rows_.image_prompts.empty())
        for (; end < shape_.frames; ++end) {
          const KeyValues next = key_values(RowOf(end * shape_.runs), head);
          if (next.words != kv.words || next.bias != kv.bias) break;
        }
      AttendVectors(step, head, kv, {queries, panel_words}, frame * shape_.runs, end * shape_.runs, mine);
      frame = end;
    }
  }

  struct Queries {
    const std::uint32_t* data;
    std::size_t panel_words;
  };

  /// Queries of vectors [begin, end), of rows that share keys and values. A panel that is half another row's is walked
  /// for either.
  void AttendVectors(const Step& step, std::size_t head, const KeyValues& kv, const Queries& queries, std::size_t begin,
                     std::size_t end, Workspace& mine) {
    const HeadOutput<kArithmetic> output{own_.attended.data(), Base::OperandPanel(model_.inner), head * model_.head_dim,
                                         1, 0};
    const std::size_t first = begin / 2, panels = (end + 1) / 2 - first, row = RowOf(begin);
    const std::uint32_t* data = queries.data + first * queries.panel_words;
    const auto attend = [&](const KeyValues& to, float scale, bool is_first, bool is_last) {
      OnlineAttention<kAttends> attention(*to.layout, mine.scores.data());
      float* const sums = mine.scores.data() + online_attention_floats(*to.layout, kPanel, shape_.panels());
      if (is_first && Biases(step).per_query())
        AttendWithBiases(attention, step, head, to, {data, queries.panel_words}, begin, panels);
      else
        attention.Attend(to, data, queries.panel_words, panels);
      if (!is_last) return attention.AddTo(sums, panels, scale, is_first);
      for (std::size_t v = begin; v < end; ++v)
        attention.Write(v / 2 - first, v % 2, v, output, scale, is_first ? nullptr : sums);
    };
    const bool prompted = step.which == 1 && !segment_.over_frames;
    const std::size_t prompts = prompted ? rows_.image_prompts.size() : 0;
    attend(kv, 1.0f, true, prompts == 0);
    for (std::size_t i = 0; i < prompts; ++i) {
      const Context& prompt = rows_.image_prompts[i];
      attend({&prompt.layout, prompt.head(step, row, model_.heads, head)}, prompt.scale[step.layer], false,
             i + 1 == prompts);
    }
  }

  /// visit(key, lane of the panel, bias) for keys [first, end) and the queries of a panel.
  template <class Visit>
  void EachBias(const TensorView& view, std::size_t row, std::size_t head, std::size_t panel, std::size_t first,
                std::size_t end, Visit&& visit) const {
    const auto& stride = view.strides();
    const auto at = [&](std::size_t axis, std::size_t i) { return static_cast<std::int64_t>(i) * stride[axis]; };
    for (std::size_t slot = 0; slot < 2; ++slot) {
      const std::size_t v = std::min(2 * panel + slot, shape_.vectors() - 1);
      dispatch_floating(view.dtype(), [&]<class T>(T) {
        const T* const from = static_cast<const T*>(view.data()) + at(0, row) + at(1, head) + at(2, PixelOf(v));
        for (std::size_t key = first; key < end; ++key)
          for (std::size_t lane = 0; lane < runs_[v % shape_.runs].valid; ++lane)
            visit(key, slot * kLanes + lane, to_float(from[at(2, lane) + at(3, key)]));
      });
    }
  }

  /// Attention with biases of every query's own. As for read_biases, softmax does not change with what all scores of a
  /// query have in common, and small numbers keep their digits.
  void AttendWithBiases(OnlineAttention<kAttends>& attention, const Step& step, std::size_t head, const KeyValues& kv,
                        const Queries& queries, std::size_t begin, std::size_t panels) const {
    const TensorView& view = Biases(step).view;
    const std::size_t row = RowOf(begin), first = begin / 2, keys = kv.layout->keys();
    std::vector<float> most(panels * kPanel, -std::numeric_limits<float>::infinity());
    for (std::size_t panel = 0; panel < panels; ++panel)
      EachBias(view, row, head, first + panel, 0, keys, [&](std::size_t, std::size_t lane, float bias) {
        most[panel * kPanel + lane] = std::max(most[panel * kPanel + lane], bias);
      });
    for (float& value : most)
      if (!std::isfinite(value)) value = 0.0f;
    const auto lane_bias = [&](std::size_t key, std::size_t count, std::size_t panel, float* to) {
      std::fill_n(to, count * kPanel, 0.0f);  // lanes without a query
      EachBias(view, row, head, first + panel, key, key + count, [&](std::size_t k, std::size_t lane, float bias) {
        to[(k - key) * kPanel + lane] = exponent_of(bias - most[panel * kPanel + lane]);
      });
    };
    attention.Attend(kv, queries.data, queries.panel_words, panels, lane_bias);
  }

  /// The keys and values of a step's attention over pixels.
  void StoreKeys(const Step& step) {
    Base::NormaliseForHeads(step.layer, step.which);
    team_.for_each(model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
      for (std::size_t head = begin; head < end; ++head) {
        const PackedLinear& kv = model_.blocks[step.layer].attn[step.which].kv[head];
        const std::size_t kv_panel = kv.rows * kPanel;
        Base::EachNormed(step.layer, step.which, mine, [&](PanelRange range, const std::uint32_t* x) {
          Base::Product(kv, x, model_.inner, range,
                        ToRows<Sum::store>{mine.qkv.data() + range.begin * kv_panel, kv_panel});
        });
        for (std::size_t v = 0; v < shape_.vectors(); ++v)
          PackKeys<kAttends>(rows_.pixels, mine.qkv.data() + PlaceOf(v, kv_panel), PixelOf(v),
                             runs_[v % shape_.runs].valid, rows_.pixel_head(step.turn, RowOf(v), model_.heads, head));
      }
    });
  }

  /// x = share stream + (1 - share) block(stream + time_pos_embed)
  void TemporalBlock() {
    const std::size_t layer = segment_.layer, inner = model_.inner;
    EachChannel([&](const float*, float* x, std::size_t v, std::size_t c) KINEOGRAPH_ATTR {
      if (c < inner)
        hn::Store(hn::Add(hn::Load(D(), x), hn::Set(D(), rows_.frame_embedding[shape_.frame_of(v) * inner + c])), D(),
                  x);
    });
    Base::FeedForwardPhase(layer, model_.blocks[layer].entry, 3, false);
    Base::AttentionPhase(layer, 0);
    if (!rows_.clip_context.empty())
      AttendTokens({Step::Kind::attention, layer, 1}, [&](std::size_t row, std::size_t head) {
        const Context& context = rows_.clip_context;
        return KeyValues{&context.layout,
                         context.head({Step::Kind::attention, layer, 1}, row / call_.frames, model_.heads, head)};
      });
    else if (!model_.blocks[layer].attn[1].out.empty())
      Base::AttentionPhase(layer, 1);
    Base::FeedForwardPhase(layer, model_.blocks[layer].ff, 2, false);
    EachChannel([&](const float* stream, float* x, std::size_t v, std::size_t) KINEOGRAPH_ATTR {
      const float share = rows_.spatial_share[RowOf(v)];
      hn::Store(
          hn::MulAdd(hn::Set(D(), share), hn::Load(D(), stream), hn::Mul(hn::Set(D(), 1.0f - share), hn::Load(D(), x))),
          D(), x);
    });
  }

  const RowsCall& rows_;
  const Segment& segment_;
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

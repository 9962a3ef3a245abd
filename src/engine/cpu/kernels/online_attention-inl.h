// Attention of queries that share their keys: lanes are queries, keys and values are the packed weights of two products
// (pack/key_values.h). Online: piece by piece of the keys, with a running maximum and sum for every lane, so that
// memory does not grow with their number.
#if defined(KINEOGRAPH_CPU_KERNELS_ONLINE_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_ONLINE_ATTENTION_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_ONLINE_ATTENTION_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_ONLINE_ATTENTION_INL_H_
#endif

#include <limits>

#include "engine/cpu/kernels/attention-inl.h"
#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/kernels/vector_math-inl.h"
#include "engine/cpu/pack/key_values.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Writes a head's queries, times `scale`, as operands [panel][channel][2N]. With scale = log2(e) / sqrt(head_dim)
/// scores are the exponents of powers of two.
template <Arithmetic kArithmetic>
struct ToQueries {
  using Side = ReadAhead;
  static constexpr bool kBuffered = false, kInPlace = false;
  std::uint32_t* queries;
  std::size_t panel_words;
  float scale;
  HWY_INLINE void Before(std::size_t, std::size_t, std::size_t, ReadAhead&) const {}
  template <class Sums>
  HWY_INLINE void Take(const Sums& sums, std::size_t row, std::size_t, std::size_t panel, std::size_t begin,
                       std::size_t end) const {
    const Vec factor = hn::Set(D(), scale);
    std::uint32_t* to = queries + panel * panel_words + row / 2 * kPairWords<kArithmetic>;
    KINEOGRAPH_UNROLL for (std::size_t i = begin; i < end; i += 2) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v)
        StoreOperandPair<kArithmetic>(hn::Mul(factor, sums(i, v)), hn::Mul(factor, sums(i + 1, v)),
                                      to + i / 2 * kPairWords<kArithmetic> + v * kLanes);
  }
};

/// Biases of scores: none, one a key, or one a key and query.
enum class ScoreBias { none, keys, lanes };

/// Writes a piece's scores [key][2N] and keeps the lanes' largest.
template <ScoreBias kBias>
struct ToScores {
  using Side = ReadAhead;
  static constexpr bool kBuffered = false, kInPlace = false;
  float* scores;
  float* most;        ///< [2N]
  std::size_t keys;   ///< of the piece; a row past them is padding
  const float* bias;  ///< [key] or [key][2N]
  HWY_INLINE void Before(std::size_t, std::size_t, std::size_t, ReadAhead&) const {}
  template <class Sums>
  HWY_INLINE void Take(const Sums& sums, std::size_t row, std::size_t, std::size_t, std::size_t begin,
                       std::size_t end) const {
    const D d;
    Vec high[2] = {hn::Load(d, most), hn::Load(d, most + kLanes)};
    const auto take = [&](std::size_t i) KINEOGRAPH_ATTR {
      KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
        Vec score = sums(i, v);
        if constexpr (kBias == ScoreBias::keys) score = hn::Add(score, hn::Set(d, bias[row + i]));
        if constexpr (kBias == ScoreBias::lanes)
          score = hn::Add(score, hn::Load(d, bias + (row + i) * kPanel + v * kLanes));
        hn::Store(score, d, scores + (row + i) * kPanel + v * kLanes);
        high[v] = hn::Max(high[v], score);
      }
    };
    if (row + end <= keys) {
      KINEOGRAPH_UNROLL for (std::size_t i = begin; i < end; ++i) take(i);
    } else {
      KINEOGRAPH_UNROLL for (std::size_t i = begin; i < end; ++i) {
        if (row + i < keys) take(i);
      }
    }
    hn::Store(high[0], d, most);
    hn::Store(high[1], d, most + kLanes);
  }
};

/// Keys and values of one head, packed.
struct KeyValues {
  const KeyValueLayout* layout = nullptr;
  const std::uint32_t* words = nullptr;
  const float* bias = nullptr;  ///< log2(e) times what is added to the scores of each key, or null
};

/// No query has biases of its own.
struct NoLaneBias {};

/// Degree of the polynomial of 2^x: what bf16 rounds away need not be computed.
template <Arithmetic kArithmetic>
inline constexpr std::size_t kExpDegree = is_paired(kArithmetic) ? 3 : 5;

/// Powers of two by which a score may exceed its base before the base is raised: sums keep their
/// digits, and what was summed is rarely scaled.
inline constexpr float kHeadroom = 8.0f;

/// The running softmax of one panel's queries.
struct OnlinePanel {
  float* out;   ///< [head_dim, padded to even][2N]: values weighed by 2^(score - base)
  float* base;  ///< [2N]
  float* sum;   ///< [2N]: of 2^(score - base)
  float* most;  ///< [2N]: the largest score of a piece
};

HWY_INLINE void BeginPanel(const OnlinePanel& panel, std::size_t rows) {
  const D d;
  const Vec lowest = hn::Set(d, std::numeric_limits<float>::lowest());
  for (std::size_t v = 0; v < kPanel; v += kLanes) {
    hn::Store(lowest, d, panel.base + v);
    hn::Store(hn::Zero(d), d, panel.sum + v);
  }
  std::fill_n(panel.out, rows * kPanel, 0.0f);
}

/// Raises the base of lanes that `most` exceeds by too much. Other lanes are multiplied by 1: their bits do not depend
/// on their neighbours.
template <std::size_t kDegree>
HWY_INLINE void RaiseBase(const OnlinePanel& panel, std::size_t rows) {
  const D d;
  Vec factor[2];
  bool any = false;
  KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
    const Vec base = hn::Load(d, panel.base + v * kLanes), most = hn::Load(d, panel.most + v * kLanes);
    const auto raised = hn::Gt(most, hn::Add(base, hn::Set(d, kHeadroom)));
    any = any || !hn::AllFalse(d, raised);
    const Vec next = hn::IfThenElse(raised, most, base);
    factor[v] = ShortExp2<kDegree>(hn::Sub(base, next));
    hn::Store(next, d, panel.base + v * kLanes);
    hn::Store(hn::Mul(hn::Load(d, panel.sum + v * kLanes), factor[v]), d, panel.sum + v * kLanes);
  }
  if (!any) return;
  for (std::size_t i = 0; i < rows; ++i) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
      float* at = panel.out + i * kPanel + v * kLanes;
      hn::Store(hn::Mul(hn::Load(d, at), factor[v]), d, at);
    }
}

/// A piece's scores -> powers of two as operands, in place for f32; pairs of keys go to `pairs`.
template <Arithmetic kArithmetic>
HWY_INLINE void PowersOfScores(const OnlinePanel& panel, std::size_t keys, float* HWY_RESTRICT scores,
                               std::uint32_t* HWY_RESTRICT pairs) {
  const D d;
  const Vec base[2] = {hn::Load(d, panel.base), hn::Load(d, panel.base + kLanes)};
  Vec sum[2][2];
  KINEOGRAPH_UNROLL for (std::size_t i = 0; i < 2; ++i) sum[i][0] = sum[i][1] = hn::Zero(d);
  const auto power = [&](std::size_t key, std::size_t v) KINEOGRAPH_ATTR {
    return ShortExp2<kExpDegree<kArithmetic>>(hn::Sub(hn::Load(d, scores + key * kPanel + v * kLanes), base[v]));
  };
  const auto store = [&](std::size_t key, std::size_t v, Vec even, Vec odd) KINEOGRAPH_ATTR {
    if constexpr (is_paired(kArithmetic)) {
      hn::Store(Bf16Pair(even, odd), DU(), pairs + key / 2 * kPanel + v * kLanes);
    } else {
      hn::Store(even, d, scores + key * kPanel + v * kLanes);
      hn::Store(odd, d, scores + (key + 1) * kPanel + v * kLanes);
    }
  };
  std::size_t key = 0;
  for (; key + 2 <= keys; key += 2) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
      const Vec even = power(key, v), odd = power(key + 1, v);
      sum[0][v] = hn::Add(sum[0][v], even);
      sum[1][v] = hn::Add(sum[1][v], odd);
      store(key, v, even, odd);
    }
  if (key < keys) KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
      const Vec even = power(key, v);
      sum[0][v] = hn::Add(sum[0][v], even);
      store(key, v, even, hn::Zero(d));
    }
  KINEOGRAPH_UNROLL for (std::size_t v = 0; v < 2; ++v) {
    float* at = panel.sum + v * kLanes;
    hn::Store(hn::Add(hn::Load(d, at), hn::Add(sum[0][v], sum[1][v])), d, at);
  }
}

/// Attention of the queries of a few panels, [panel][channel][2N] scaled by ToQueries, to the keys of one head.
template <Arithmetic kArithmetic>
class OnlineAttention {
 public:
  /// `memory`: online_attention_floats of them.
  OnlineAttention(const KeyValueLayout& layout, float* memory)
      : head_dim_(layout.head_dim()), rows_(pad_channels(head_dim_)) {
    const std::size_t piece = round_up(layout.piece_keys(), 2) * kPanel;
    scores_ = memory;
    biases_ = scores_ + piece;
    pairs_ = reinterpret_cast<std::uint32_t*>(biases_ + piece);
    panels_ = biases_ + 2 * piece;
  }

  /// `lane_bias(first key, keys, panel, to)` writes log2(e) times the biases of the lanes, [keys][2N], if there are
  /// any.
  template <class LaneBias = NoLaneBias>
  void Attend(const KeyValues& kv, const std::uint32_t* queries, std::size_t panel_words, std::size_t panels,
              const LaneBias& lane_bias = LaneBias()) {
    for (std::size_t panel = 0; panel < panels; ++panel) BeginPanel(At(panel), rows_);
    const KeyValueLayout& layout = *kv.layout;
    for (std::size_t piece = 0; piece < layout.pieces(); ++piece) {
      const LinearView keys = layout.keys_view(kv.words, piece), values = layout.values_view(kv.words, piece);
      const float* bias = kv.bias == nullptr ? nullptr : kv.bias + piece * layout.piece_keys();
      for (std::size_t panel = 0; panel < panels; ++panel) {
        const Piece now{keys, values, layout.keys_of(piece), queries + panel * panel_words, At(panel)};
        if constexpr (!std::is_same_v<LaneBias, NoLaneBias>) {
          lane_bias(piece * layout.piece_keys(), now.count, panel, biases_);
          AddPiece<ScoreBias::lanes>(now, biases_);
        } else if (bias != nullptr) {
          AddPiece<ScoreBias::keys>(now, bias);
        } else {
          AddPiece<ScoreBias::none>(now, nullptr);
        }
      }
    }
  }

  /// sums (+)= scale * what the queries are given, [panel][head_dim, padded to even][2N].
  void AddTo(float* sums, std::size_t panels, float scale, bool first) const {
    const D d;
    for (std::size_t panel = 0; panel < panels; ++panel)
      KINEOGRAPH_UNROLL for (std::size_t slot = 0; slot < 2; ++slot) {
        const Vec factor = hn::Mul(hn::Set(d, scale), Inverse(panel, slot));
        for (std::size_t e = 0; e < rows_; ++e) {
          float* to = sums + (panel * rows_ + e) * kPanel + slot * kLanes;
          const Vec more = hn::Mul(hn::Load(d, At(panel).out + e * kPanel + slot * kLanes), factor);
          hn::Store(first ? more : hn::Add(hn::Load(d, to), more), d, to);
        }
      }
  }

  /// Writes vector `slot` of a panel, times `scale` and more by AddTo's sums if not null, as the head's channels of
  /// vector v of a tile: see HeadOutput.
  template <class Output>
  void Write(std::size_t panel, std::size_t slot, std::size_t v, const Output& output, float scale = 1.0f,
             const float* sums = nullptr) const {
    const D d;
    const float* out = At(panel).out + slot * kLanes;
    const Vec factor = hn::Mul(hn::Set(d, scale), Inverse(panel, slot));
    if (sums != nullptr) sums += panel * rows_ * kPanel + slot * kLanes;
    StoreHead(output, v, head_dim_, [&](std::size_t e) KINEOGRAPH_ATTR {
      const Vec value = hn::Mul(hn::Load(d, out + e * kPanel), factor);
      return sums == nullptr ? value : hn::Add(hn::Load(d, sums + e * kPanel), value);
    });
  }

 private:
  OnlinePanel At(std::size_t panel) const {
    float* const memory = panels_ + panel * (rows_ + 3) * kPanel;
    float* const lanes = memory + rows_ * kPanel;
    return {memory, lanes, lanes + kPanel, lanes + 2 * kPanel};
  }

  /// 1 / sum of the powers. That of the largest score is 1 at least unless all scores are minus infinity: such queries
  /// are given zeros.
  HWY_INLINE Vec Inverse(std::size_t panel, std::size_t slot) const {
    const D d;
    const Vec sum = hn::Load(d, At(panel).sum + slot * kLanes);
    return hn::IfThenElse(hn::Lt(sum, hn::Set(d, 0.5f)), hn::Zero(d), hn::Div(hn::Set(d, 1.0f), sum));
  }

  struct Piece {
    const LinearView &keys, &values;
    std::size_t count;
    const std::uint32_t* query;
    OnlinePanel panel;
  };

  template <ScoreBias kBias>
  HWY_INLINE void AddPiece(const Piece& piece, const float* bias) {
    const D d;
    const OnlinePanel& panel = piece.panel;
    const Vec lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
    hn::Store(lowest, d, panel.most);
    hn::Store(lowest, d, panel.most + kLanes);
    Gemm<kArithmetic>(piece.keys, piece.query, 0, {0, 1}, ToScores<kBias>{scores_, panel.most, piece.count, bias});
    RaiseBase<kExpDegree<kArithmetic>>(panel, rows_);
    PowersOfScores<kArithmetic>(panel, piece.count, scores_, pairs_);
    const auto* powers = is_paired(kArithmetic) ? pairs_ : reinterpret_cast<const std::uint32_t*>(scores_);
    Gemm<kArithmetic>(piece.values, powers, 0, {0, 1}, ToRows<Sum::add>{panel.out, 0});
  }

  std::size_t head_dim_, rows_;
  float* scores_;         ///< of a piece [key][2N]
  float* biases_;         ///< theirs, where queries have biases of their own
  std::uint32_t* pairs_;  ///< their powers, as pairs of keys
  float* panels_;
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

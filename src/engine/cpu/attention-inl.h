// Attention of one head. Queries, keys and values are vectors of N pixels, so every lane is a sequence of its own.
#if defined(KINEOGRAPH_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_ATTENTION_INL_H_
#undef KINEOGRAPH_CPU_ATTENTION_INL_H_
#else
#define KINEOGRAPH_CPU_ATTENTION_INL_H_
#endif

#include "engine/cpu/gemm-inl.h"
#include "engine/cpu/vector_math-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Register blocks of the two products: queries x keys, and queries x channels. Accumulators and both factors stay in
/// registers: 4 x 4 + 8 of 32, or 2 x 4 + 6 of 16.
inline constexpr std::size_t kQueryBlock = kMaxRows >= 14 ? 4 : 2;
inline constexpr std::size_t kKeyBlock = 4;

/// Rows [row, row + head_dim) of a buffer [panel][channel][2N], by token of one group.
struct HeadRows {
  const float* data;
  std::size_t panel_floats;
  std::size_t groups, group;
  HWY_INLINE const float* operator()(std::size_t token) const {
    const std::size_t v = token * groups + group;
    return data + v / 2 * panel_floats + v % 2 * kLanes;
  }
};

/// Softmax in place of count vectors at scores, `stride` floats apart, of scores * scale.
HWY_INLINE void SoftmaxLanes(float* scores, std::size_t count, std::size_t stride, float scale) {
  const D d;
  Vec most = hn::Load(d, scores);
  for (std::size_t j = 1; j < count; ++j) most = hn::Max(most, hn::Load(d, scores + j * stride));
  // e^(scale (s - max)) = 2^(scale log2(e) (s - max))
  const Vec factor = hn::Set(d, scale * 1.44269504f);
  Vec sum = hn::Zero(d);
  for (std::size_t j = 0; j < count; ++j) {
    const Vec e = Exp2(hn::Mul(hn::Sub(hn::Load(d, scores + j * stride), most), factor));
    sum = hn::Add(sum, e);
    hn::Store(e, d, scores + j * stride);
  }
  const Vec inverse = hn::Div(hn::Set(d, 1.0f), sum);
  for (std::size_t j = 0; j < count; ++j)
    hn::Store(hn::Mul(hn::Load(d, scores + j * stride), inverse), d, scores + j * stride);
}

/// Writes channels of a head's output into operands [panel][inner].
template <Arithmetic kArithmetic>
struct HeadOutput {
  std::uint32_t* data;
  std::size_t panel_words;
  std::size_t first_row;  ///< head * head_dim
  std::size_t groups, group;

  /// Channels [e, e + kCount) of one token.
  template <std::size_t kCount>
  HWY_INLINE void Store(std::size_t token, std::size_t e, const Vec (&value)[kCount]) const {
    const std::size_t v = token * groups + group;
    std::uint32_t* panel = data + v / 2 * panel_words;
    const std::size_t lane = v % 2 * kLanes;
    const std::size_t row = first_row + e;
    if constexpr (kArithmetic != Arithmetic::bf16) {
      for (std::size_t i = 0; i < kCount; ++i)
        hn::Store(value[i], D(), reinterpret_cast<float*>(panel) + (row + i) * kPanel + lane);
    } else if (kCount % 2 == 0 && row % 2 == 0) {
      for (std::size_t i = 0; i + 1 < kCount; i += 2)
        hn::Store(Bf16Pair(value[i], value[i + 1]), DU(), panel + (row + i) / 2 * kPanel + lane);
    } else {  // an odd head_dim: half a pair at a time
      for (std::size_t i = 0; i < kCount; ++i) {
        HWY_ALIGN std::uint32_t bits[kLanes];
        hn::Store(RoundToBf16(value[i]), DU(), bits);
        auto* pair = panel + (row + i) / 2 * kPanel + lane;
        const bool high = (row + i) % 2 == 1;
        for (std::size_t l = 0; l < kLanes; ++l)
          pair[l] = high ? (pair[l] & 0xffffu) | bits[l] << 16 : (pair[l] & 0xffff0000u) | bits[l];
      }
    }
  }
};

/// scores[q][key] = sum_e query[q][e] key[e] for queries [first, first + kQueryBlock) and all keys; queries past the
/// end repeat the last.
HWY_INLINE void Scores(const HeadRows& query, std::size_t first, std::size_t queries, const HeadRows& key,
                       std::size_t keys, std::size_t head_dim, float* HWY_RESTRICT scores) {
  const D d;
  const float* q[kQueryBlock];
  for (std::size_t a = 0; a < kQueryBlock; ++a) q[a] = query(std::min(first + a, queries - 1));
  for (std::size_t j = 0; j < keys; j += kKeyBlock) {
    const float* k[kKeyBlock];
    for (std::size_t b = 0; b < kKeyBlock; ++b) k[b] = key(std::min(j + b, keys - 1));
    Vec sum[kQueryBlock][kKeyBlock];
    KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a)
        KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kKeyBlock; ++b) sum[a][b] = hn::Zero(d);
    for (std::size_t e = 0; e < head_dim; ++e) {
      Vec kv[kKeyBlock];
      KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kKeyBlock; ++b) kv[b] = hn::Load(d, k[b] + e * kPanel);
      KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a) {
        const Vec qv = hn::Load(d, q[a] + e * kPanel);
        KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kKeyBlock; ++b) sum[a][b] = hn::MulAdd(qv, kv[b], sum[a][b]);
      }
    }
    const std::size_t here = std::min(kKeyBlock, keys - j);
    for (std::size_t a = 0; a < kQueryBlock; ++a)
      for (std::size_t b = 0; b < here; ++b) hn::Store(sum[a][b], d, scores + (a * keys + j + b) * kLanes);
  }
}

/// Channels [e, e + kCount) of the outputs of a block of queries.
template <std::size_t kCount, class Output>
HWY_INLINE void WeightedValues(const float* HWY_RESTRICT probabilities, const HeadRows& value, std::size_t keys,
                               std::size_t e, std::size_t first, std::size_t queries, const Output& output) {
  const D d;
  Vec sum[kQueryBlock][kCount];
  KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a)
      KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kCount; ++b) sum[a][b] = hn::Zero(d);
  for (std::size_t j = 0; j < keys; ++j) {
    const float* v = value(j) + e * kPanel;
    Vec vv[kCount];
    KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kCount; ++b) vv[b] = hn::Load(d, v + b * kPanel);
    KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a) {
      const Vec p = hn::Load(d, probabilities + (a * keys + j) * kLanes);
      KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kCount; ++b) sum[a][b] = hn::MulAdd(p, vv[b], sum[a][b]);
    }
  }
  KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a) {
    if (first + a < queries) output.Store(first + a, e, sum[a]);
  }
}

/// One head of one group: every query attends to every key of its own lane. scores: kQueryBlock * keys * N floats.
template <class Output>
inline void AttendHead(const HeadRows& query, std::size_t queries, const HeadRows& key, const HeadRows& value,
                       std::size_t keys, std::size_t head_dim, float scale, float* HWY_RESTRICT scores,
                       const Output& output) {
  for (std::size_t i = 0; i < queries; i += kQueryBlock) {
    Scores(query, i, queries, key, keys, head_dim, scores);
    for (std::size_t a = 0; a < kQueryBlock; ++a) SoftmaxLanes(scores + a * keys * kLanes, keys, kLanes, scale);
    std::size_t e = 0;
    for (; e + 4 <= head_dim; e += 4) WeightedValues<4>(scores, value, keys, e, i, queries, output);
    for (; e + 2 <= head_dim; e += 2) WeightedValues<2>(scores, value, keys, e, i, queries, output);
    for (; e < head_dim; ++e) WeightedValues<1>(scores, value, keys, e, i, queries, output);
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

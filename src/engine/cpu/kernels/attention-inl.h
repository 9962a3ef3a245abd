// Attention of one head. Queries, keys and values are vectors of N pixels, so every lane is a sequence of its own.
#if defined(KINEOGRAPH_CPU_KERNELS_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_ATTENTION_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_ATTENTION_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_ATTENTION_INL_H_
#endif

#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/kernels/vector_math-inl.h"
#include "engine/cpu/kernels/window_average-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Register blocks of the two products: queries x keys, and queries x channels. Accumulators and both factors stay in
/// registers: 4 x 4 + 8 of 32, or 2 x 4 + 6 of 16.
inline constexpr std::size_t kQueryBlock = kMaxRows >= 14 ? 4 : 2;
inline constexpr std::size_t kKeyBlock = 4;

/// Rows [row, row + head_dim) of a buffer [panel][channel][2N], by token of one run. In bf16 rows are pairs of
/// channels, or tokens are pairs of tokens.
struct HeadRows {
  const float* data;
  std::size_t panel_floats;
  std::size_t runs, run;
  HWY_INLINE const float* operator()(std::size_t token) const {
    const std::size_t v = token * runs + run;
    return data + PlaceOf(v, panel_floats);
  }
};

/// e^(scale (s - max)) in place of `count` vectors s at scores, `stride` floats apart. Returns the factor that makes
/// their sum 1.
HWY_INLINE Vec ExponentialLanes(float* scores, std::size_t count, std::size_t stride, float scale) {
  const D d;
  Vec most = hn::Load(d, scores);
  for (std::size_t j = 1; j < count; ++j) most = hn::Max(most, hn::Load(d, scores + j * stride));
  // = 2^(scale log2(e) (s - max))
  const Vec factor = hn::Set(d, scale * 1.44269504f);
  Vec sum = hn::Zero(d);
  for (std::size_t j = 0; j < count; ++j) {
    const Vec e = Exp2(hn::Mul(hn::Sub(hn::Load(d, scores + j * stride), most), factor));
    sum = hn::Add(sum, e);
    hn::Store(e, d, scores + j * stride);
  }
  return hn::Div(hn::Set(d, 1.0f), sum);
}

/// Softmax of scores * scale in place.
HWY_INLINE void SoftmaxLanes(float* scores, std::size_t count, std::size_t stride, float scale) {
  const D d;
  const Vec inverse = ExponentialLanes(scores, count, stride, scale);
  for (std::size_t j = 0; j < count; ++j)
    hn::Store(hn::Mul(hn::Load(d, scores + j * stride), inverse), d, scores + j * stride);
}

/// The same, as pairs of neighbouring probabilities in the first vectors.
HWY_INLINE void SoftmaxPairs(float* scores, std::size_t count, float scale) {
  const D d;
  const Vec inverse = ExponentialLanes(scores, count, kLanes, scale);
  const auto at = [&](std::size_t j) KINEOGRAPH_ATTR {
    return j < count ? hn::Mul(hn::Load(d, scores + j * kLanes), inverse) : hn::Zero(d);
  };
  for (std::size_t j = 0; j < count; j += 2) hn::Store(PairOf(at(j), at(j + 1)), d, scores + j / 2 * kLanes);
}

/// Writes channels of a head's output into operands [panel][inner], or adds them to an average over windows.
template <Arithmetic kArithmetic>
struct HeadOutput {
  std::uint32_t* data;
  std::size_t panel_words;
  std::size_t first_row;  ///< head * head_dim
  std::size_t runs, run;
  const WindowAverage* average = nullptr;

  /// Channels [e, e + kCount) of one token.
  template <std::size_t kCount>
  HWY_INLINE void Store(std::size_t token, std::size_t e, const Vec (&value)[kCount]) const {
    if (average != nullptr) return average->Add(token, run, first_row + e, value);
    const std::size_t v = token * runs + run;
    std::uint32_t* panel = data + v / 2 * panel_words;
    const std::size_t lane = v % 2 * kLanes;
    const std::size_t row = first_row + e;
    if constexpr (!is_paired(kArithmetic)) {
      KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kCount; ++i)
          hn::Store(value[i], D(), reinterpret_cast<float*>(panel) + (row + i) * kPanel + lane);
    } else if (kCount % 2 == 0 && row % 2 == 0) {
      KINEOGRAPH_UNROLL for (std::size_t i = 0; i + 1 < kCount; i += 2)
          hn::Store(Bf16Pair(value[i], value[i + 1]), DU(), panel + (row + i) / 2 * kPanel + lane);
    } else {  // an odd head_dim: half a pair at a time
      KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kCount; ++i) {
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

/// All channels of one token; at(e) is channel e.
template <class Output, class At>
HWY_INLINE void StoreHead(const Output& output, std::size_t token, std::size_t head_dim, const At& at) {
  std::size_t e = 0;
  for (; e + 2 <= head_dim; e += 2) {
    const Vec pair[2] = {at(e), at(e + 1)};
    output.Store(token, e, pair);
  }
  if (e == head_dim) return;
  const Vec last[1] = {at(e)};
  output.Store(token, e, last);
}

/// scores[q][key] = sum_e query[q][e] key[e] over `rows` channels or pairs of them, for queries [first, first +
/// kQueryBlock) and all keys; queries past the end repeat the last.
template <Arithmetic kArithmetic>
HWY_INLINE void Scores(const HeadRows& query, std::size_t first, std::size_t queries, const HeadRows& key,
                       std::size_t keys, std::size_t rows, float* HWY_RESTRICT scores) {
  const D d;
  const float* q[kQueryBlock];
  for (std::size_t a = 0; a < kQueryBlock; ++a) q[a] = query(std::min(first + a, queries - 1));
  for (std::size_t j = 0; j < keys; j += kKeyBlock) {
    const float* k[kKeyBlock];
    for (std::size_t b = 0; b < kKeyBlock; ++b) k[b] = key(std::min(j + b, keys - 1));
    Vec sum[kQueryBlock][kKeyBlock];
    KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a)
        KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kKeyBlock; ++b) sum[a][b] = hn::Zero(d);
    for (std::size_t e = 0; e < rows; ++e) {
      Vec kv[kKeyBlock];
      KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kKeyBlock; ++b) kv[b] = hn::Load(d, k[b] + e * kPanel);
      KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a) {
        const Vec qv = hn::Load(d, q[a] + e * kPanel);
        KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kKeyBlock; ++b) sum[a][b] =
            MultiplyAdd<kArithmetic>(qv, kv[b], sum[a][b]);
      }
    }
    const std::size_t here = std::min(kKeyBlock, keys - j);
    // Indices that are constants once unrolled keep the sums in registers.
    KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a)
        KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kKeyBlock; ++b) {
      if (b < here) hn::Store(sum[a][b], d, scores + (a * keys + j + b) * kLanes);
    }
  }
}

/// Channels [e, e + kCount) of the outputs of a block of queries. probabilities: [queries][stride][N]; keys may be
/// pairs of them.
template <Arithmetic kArithmetic, std::size_t kCount, class Output>
HWY_INLINE void WeightedValues(const float* HWY_RESTRICT probabilities, std::size_t stride, const HeadRows& value,
                               std::size_t keys, std::size_t e, std::size_t first, std::size_t queries,
                               const Output& output) {
  const D d;
  Vec sum[kQueryBlock][kCount];
  KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a)
      KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kCount; ++b) sum[a][b] = hn::Zero(d);
  for (std::size_t j = 0; j < keys; ++j) {
    const float* v = value(j) + e * kPanel;
    Vec vv[kCount];
    KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kCount; ++b) vv[b] = hn::Load(d, v + b * kPanel);
    KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a) {
      const Vec p = hn::Load(d, probabilities + (a * stride + j) * kLanes);
      KINEOGRAPH_UNROLL for (std::size_t b = 0; b < kCount; ++b) sum[a][b] =
          MultiplyAdd<kArithmetic>(p, vv[b], sum[a][b]);
    }
  }
  KINEOGRAPH_UNROLL for (std::size_t a = 0; a < kQueryBlock; ++a) {
    if (first + a < queries) output.Store(first + a, e, sum[a]);
  }
}

/// All channels of the outputs of a block of queries.
template <Arithmetic kArithmetic, class Output>
HWY_INLINE void WeightedHead(const float* HWY_RESTRICT probabilities, std::size_t stride, const HeadRows& value,
                             std::size_t keys, std::size_t head_dim, std::size_t first, std::size_t queries,
                             const Output& output) {
  std::size_t e = 0;
  for (; e + 4 <= head_dim; e += 4)
    WeightedValues<kArithmetic, 4>(probabilities, stride, value, keys, e, first, queries, output);
  for (; e + 2 <= head_dim; e += 2)
    WeightedValues<kArithmetic, 2>(probabilities, stride, value, keys, e, first, queries, output);
  for (; e < head_dim; ++e)
    WeightedValues<kArithmetic, 1>(probabilities, stride, value, keys, e, first, queries, output);
}

/// One head of one run: every query attends to every key of its own lane. scores: kQueryBlock * keys * N floats.
template <class Output>
inline void AttendHead(const HeadRows& query, std::size_t queries, const HeadRows& key, const HeadRows& value,
                       std::size_t keys, std::size_t head_dim, float scale, float* HWY_RESTRICT scores,
                       const Output& output) {
  for (std::size_t i = 0; i < queries; i += kQueryBlock) {
    Scores<Arithmetic::f32>(query, i, queries, key, keys, head_dim, scores);
    for (std::size_t a = 0; a < kQueryBlock; ++a) SoftmaxLanes(scores + a * keys * kLanes, keys, kLanes, scale);
    WeightedHead<Arithmetic::f32>(scores, keys, value, keys, head_dim, i, queries, output);
  }
}

/// Queries whose scores are all there before values are read: keys, then values, stay in the L1 cache meanwhile.
inline constexpr std::size_t kQueryBatch = 4 * kQueryBlock;

/// Values as pairs of tokens, the last one's with itself if it has no other: [pair / 2][head_dim][2N].
inline void PairValues(const HeadRows& value, std::size_t keys, std::size_t head_dim, float* HWY_RESTRICT pairs) {
  const D d;
  for (std::size_t pair = 0; pair < (keys + 1) / 2; ++pair) {
    const float* low = value(2 * pair);
    const float* high = value(std::min(2 * pair + 1, keys - 1));
    float* to = pairs + pair / 2 * head_dim * kPanel + pair % 2 * kLanes;
    for (std::size_t e = 0; e < head_dim; ++e)
      hn::Store(PairOf(hn::Load(d, low + e * kPanel), hn::Load(d, high + e * kPanel)), d, to + e * kPanel);
  }
}

/// AttendHead with dot products of bf16 pairs: queries and keys are pairs of channels, head_dim is even; values are
/// PairValues' as rows of pairs (a value without a token meets a probability of 0). Room for scores: kQueryBatch * keys
/// * N floats.
template <class Output>
inline void AttendHeadInPairs(const HeadRows& query, std::size_t queries, const HeadRows& key, const HeadRows& values,
                              std::size_t keys, std::size_t head_dim, float scale, float* HWY_RESTRICT scores,
                              const Output& output) {
  const std::size_t pairs = (keys + 1) / 2;
  for (std::size_t first = 0; first < queries; first += kQueryBatch) {
    const std::size_t end = std::min(queries, first + kQueryBatch);
    const auto row_of = [&](std::size_t q) { return scores + (q - first) * keys * kLanes; };
    for (std::size_t q = first; q < end; q += kQueryBlock)
      Scores<Arithmetic::bf16>(query, q, queries, key, keys, head_dim / 2, row_of(q));
    for (std::size_t q = first; q < end; ++q) SoftmaxPairs(row_of(q), keys, scale);
    for (std::size_t q = first; q < end; q += kQueryBlock)
      WeightedHead<Arithmetic::bf16>(row_of(q), keys, values, pairs, head_dim, q, queries, output);
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

// Attention of one head over a long clip: more keys than stay in a cache. A batch of queries meets them block by block,
// with a running maximum and sum for every lane (an online softmax), so that a block of keys and values is read once
// for all of the batch.
#if defined(KINEOGRAPH_CPU_KERNELS_LONG_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_LONG_ATTENTION_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_LONG_ATTENTION_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_LONG_ATTENTION_INL_H_
#endif

#include <limits>

#include "engine/cpu/kernels/attention-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// The running softmax of a batch of queries, in memory of long_attention_floats.
struct RunningSoftmax {
  RunningSoftmax(float* memory, std::size_t batch, std::size_t head_dim)
      : most(memory), sum(most + batch * kLanes), out(sum + batch * kLanes), scores(out + batch * head_dim * kLanes) {}
  float* most;    ///< [query][N]: the largest score so far
  float* sum;     ///< [query][N]: of e^(scale (score - most))
  float* out;     ///< [query][head_dim][N]: values weighed by them
  float* scores;  ///< [kQueryBlock][key of a block][N]
};

/// Adds weighed values to a batch's outputs.
struct AddToBatch {
  float* out;
  std::size_t first, head_dim;
  template <std::size_t kCount>
  HWY_INLINE void Store(std::size_t token, std::size_t e, const Vec (&value)[kCount]) const {
    float* const at = out + ((token - first) * head_dim + e) * kLanes;
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kCount; ++i)
        hn::Store(hn::Add(hn::Load(D(), at + i * kLanes), value[i]), D(), at + i * kLanes);
  }
};

/// e^(scale (s - max)) in place of a block's scores [key][N], max being the largest of all blocks so far: earlier sums
/// are brought to it. In bf16 pairs of neighbouring keys take the first vectors. A lane's bits depend on its own scores
/// alone.
template <Arithmetic kArithmetic>
HWY_INLINE void RunningExponentials(float* HWY_RESTRICT scores, std::size_t keys, float scale, float* HWY_RESTRICT most,
                                    float* HWY_RESTRICT sum, float* HWY_RESTRICT out, std::size_t head_dim) {
  const D d;
  const Vec before = hn::Load(d, most);
  Vec now = before;
  for (std::size_t j = 0; j < keys; ++j) now = hn::Max(now, hn::Load(d, scores + j * kLanes));
  const Vec factor = hn::Set(d, scale * 1.44269504f);
  Vec total = hn::Load(d, sum);
  if (const auto rises = hn::Gt(now, before); !hn::AllFalse(d, rises)) {
    const Vec earlier = Exp2(hn::Mul(hn::Sub(before, now), factor));
    const Vec shrink = hn::IfThenElse(rises, earlier, hn::Set(d, 1.0f));
    total = hn::Mul(total, shrink);
    for (std::size_t e = 0; e < head_dim; ++e)
      hn::Store(hn::Mul(hn::Load(d, out + e * kLanes), shrink), d, out + e * kLanes);
    hn::Store(now, d, most);
  }
  const auto power = [&](std::size_t j) KINEOGRAPH_ATTR {
    const Vec e = Exp2(hn::Mul(hn::Sub(hn::Load(d, scores + j * kLanes), now), factor));
    total = hn::Add(total, e);
    return e;
  };
  if constexpr (is_paired(kArithmetic)) {
    for (std::size_t j = 0; j < keys; j += 2) {
      const Vec low = power(j), high = j + 1 < keys ? power(j + 1) : hn::Zero(d);
      hn::Store(PairOf(low, high), d, scores + j / 2 * kLanes);
    }
  } else {
    for (std::size_t j = 0; j < keys; ++j) hn::Store(power(j), d, scores + j * kLanes);
  }
  hn::Store(total, d, sum);
}

/// The finished rows of a batch of queries.
template <class Output>
HWY_INLINE void WriteBatch(const RunningSoftmax& state, std::size_t first, std::size_t count, std::size_t head_dim,
                           const Output& output) {
  const D d;
  for (std::size_t q = 0; q < count; ++q) {
    const Vec inverse = hn::Div(hn::Set(d, 1.0f), hn::Load(d, state.sum + q * kLanes));
    const float* const out = state.out + q * head_dim * kLanes;
    StoreHead(output, first + q, head_dim,
              [&](std::size_t e) KINEOGRAPH_ATTR { return hn::Mul(hn::Load(d, out + e * kLanes), inverse); });
  }
}

/// AttendHead and AttendHeadInPairs for many keys. In bf16, queries and keys are pairs of channels, head_dim is even
/// and values are PairValues' as rows of pairs of tokens. memory: long_attention_floats.
template <Arithmetic kArithmetic, class Output>
inline void AttendLongHead(const HeadRows& query, std::size_t queries, const HeadRows& key, const HeadRows& value,
                           std::size_t keys, std::size_t head_dim, float scale, float* HWY_RESTRICT memory,
                           const Output& output) {
  constexpr std::size_t kTokens = is_paired(kArithmetic) ? 2 : 1;  // of a row of values
  const std::size_t block = long_attention_block(kLanes, head_dim);
  const RunningSoftmax state(memory, block, head_dim);
  const auto from = [](HeadRows rows, std::size_t row) {
    rows.run += row * rows.runs;
    return rows;
  };
  for (std::size_t first = 0; first < queries; first += block) {
    const std::size_t end = std::min(queries, first + block);
    std::fill_n(state.most, block * kLanes, std::numeric_limits<float>::lowest());
    std::fill_n(state.sum, block * kLanes, 0.0f);
    std::fill_n(state.out, block * head_dim * kLanes, 0.0f);
    for (std::size_t j = 0; j < keys; j += block) {
      const std::size_t here = std::min(block, keys - j);
      const HeadRows keys_here = from(key, j), values_here = from(value, j / kTokens);
      for (std::size_t q = first; q < end; q += kQueryBlock) {
        Scores<kArithmetic>(query, q, queries, keys_here, here, head_dim / kTokens, state.scores);
        for (std::size_t a = 0; a < std::min(kQueryBlock, end - q); ++a) {
          const std::size_t at = q + a - first;
          RunningExponentials<kArithmetic>(state.scores + a * here * kLanes, here, scale, state.most + at * kLanes,
                                           state.sum + at * kLanes, state.out + at * head_dim * kLanes, head_dim);
        }
        WeightedHead<kArithmetic>(state.scores, here, values_here, (here + kTokens - 1) / kTokens, head_dim, q, queries,
                                  AddToBatch{state.out, first, head_dim});
      }
    }
    WriteBatch(state, first, end - first, head_dim, output);
  }
}

/// One head, whatever the number of keys; memory as workspace_sizes has it for scores.
template <Arithmetic kArithmetic, class Output>
inline void Attend(const HeadRows& query, std::size_t queries, const HeadRows& key, const HeadRows& value,
                   std::size_t keys, std::size_t head_dim, float scale, float* HWY_RESTRICT memory,
                   const Output& output) {
  if (attends_in_blocks(kLanes, head_dim, keys))
    AttendLongHead<kArithmetic>(query, queries, key, value, keys, head_dim, scale, memory, output);
  else if constexpr (is_paired(kArithmetic))
    AttendHeadInPairs(query, queries, key, value, keys, head_dim, scale, memory, output);
  else
    AttendHead(query, queries, key, value, keys, head_dim, scale, memory, output);
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

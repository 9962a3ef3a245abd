// The backward of one attention head, lane by lane.
#if defined(KINEOGRAPH_CPU_KERNELS_ATTENTION_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_ATTENTION_BACKWARD_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_ATTENTION_BACKWARD_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_ATTENTION_BACKWARD_INL_H_
#endif

#include "engine/cpu/kernels/attention-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Memory of a head's gradients, by token of one run: HeadRows reads it.
struct HeadGradient {
  float* data;
  std::size_t panel_floats;
  std::size_t runs, run;
  template <std::size_t kCount>
  HWY_INLINE void Store(std::size_t token, std::size_t e, const Vec (&value)[kCount]) const {
    const std::size_t v = token * runs + run;
    float* to = data + PlaceOf(v, panel_floats);
    KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kCount; ++i) hn::Store(value[i], D(), to + (e + i) * kPanel);
  }
};

/// Floats that AttendHeadBackward needs.
inline std::size_t AttentionBackwardScratch(std::size_t queries, std::size_t keys) {
  return 2 * kLanes * (round_up(queries, kQueryBlock) * keys + round_up(keys, kQueryBlock) * queries);
}

/// outputs[a] = sum over b of weights[a][b] values[b], for a in [0, count).
template <class Output>
HWY_INLINE void WeightedRows(const float* weights, std::size_t count, const HeadRows& values, std::size_t others,
                             std::size_t head_dim, const Output& output) {
  for (std::size_t i = 0; i < count; i += kQueryBlock)
    WeightedHead<Arithmetic::f32>(weights + i * others * kLanes, others, values, others, head_dim, i, count, output);
}

/// With p = softmax(scale q k) and dp = d_out v: ds = scale p (dp - sum(p dp)), d_v = p^T d_out, d_q = ds k,
/// d_k = ds^T q. In this order each may take memory that is not read again: d_value that of value, d_query that
/// of d_out, d_key that of key.
inline void AttendHeadBackward(const HeadRows& query, std::size_t queries, const HeadRows& key, const HeadRows& value,
                               std::size_t keys, std::size_t head_dim, float scale, const HeadRows& d_out,
                               const HeadGradient& d_query, const HeadGradient& d_key, const HeadGradient& d_value,
                               float* HWY_RESTRICT scratch) {
  const D d;
  const std::size_t matrix = round_up(queries, kQueryBlock) * keys * kLanes;
  const std::size_t turned = round_up(keys, kQueryBlock) * queries * kLanes;
  float *p = scratch, *ds = p + matrix, *p_turned = ds + matrix, *ds_turned = p_turned + turned;
  for (std::size_t i = 0; i < queries; i += kQueryBlock) {
    Scores<Arithmetic::f32>(query, i, queries, key, keys, head_dim, p + i * keys * kLanes);
    Scores<Arithmetic::f32>(d_out, i, queries, value, keys, head_dim, ds + i * keys * kLanes);
  }
  for (std::size_t i = 0; i < queries; ++i) {
    float *row = p + i * keys * kLanes, *d_row = ds + i * keys * kLanes;
    SoftmaxLanes(row, keys, kLanes, scale);
    Vec along = hn::Zero(d);
    for (std::size_t j = 0; j < keys; ++j)
      along = hn::MulAdd(hn::Load(d, row + j * kLanes), hn::Load(d, d_row + j * kLanes), along);
    for (std::size_t j = 0; j < keys; ++j) {
      const Vec probability = hn::Load(d, row + j * kLanes);
      const Vec slope =
          hn::Mul(hn::Mul(probability, hn::Set(d, scale)), hn::Sub(hn::Load(d, d_row + j * kLanes), along));
      hn::Store(slope, d, d_row + j * kLanes);
      hn::Store(slope, d, ds_turned + (j * queries + i) * kLanes);
      hn::Store(probability, d, p_turned + (j * queries + i) * kLanes);
    }
  }
  WeightedRows(p_turned, keys, d_out, queries, head_dim, d_value);
  WeightedRows(ds, queries, key, keys, head_dim, d_query);
  WeightedRows(ds_turned, keys, query, queries, head_dim, d_key);
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

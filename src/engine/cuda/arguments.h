// The kernels' arguments, which the plan fills in and a launch hands over as they are.
//
// A slab is `pixels` neighbouring pixels of the clips, one after the other, with all their frames. Its tokens are rows
// in the order (frame, pixel): token m is frame m / pixels of pixel m % pixels. T is the compute dtype, f16 or bf16.
// Parameters other than matrices are f32.
#pragma once

#include <cstdint>

namespace kineograph::engine::cuda {

/// How far from the clips' first pixel a slab begins, and where its rows lie in (B*F, C, H*W).
struct Slab {
  std::int64_t first = 0;  ///< pixel, counted through all clips
  int pixels = 0;          ///< of the slab
  int frames = 0;          ///< F
  int image_pixels = 0;    ///< H*W
  int tokens() const { return pixels * frames; }
};

/// Mean and sum of squared distances from it.
struct Moments {
  double mean, squares;
};

/// mean + mean_low is the mean to about 48 bits, so that a mean far above the deviation costs no digits.
struct GroupStatistics {
  float mean, mean_low, scale;  ///< scale = 1 / sqrt(variance + epsilon)
};

/// Moments of `count` contiguous elements: block i those of elements [i count, (i + 1) count).
struct MomentsArguments {
  const void* image;  ///< f32, f16 or bf16
  Moments* moments;
  std::int64_t count;
};

/// Statistics of `sets` x `groups` out of the moments of `rows` rows each, in the order of the rows.
struct StatisticsArguments {
  const Moments* moments;  ///< (sets, rows, groups)
  GroupStatistics* statistics;
  int sets, rows, groups;
  double count;  ///< elements behind one of the moments
  double epsilon;
};

/// tokens (M, C) in T = GroupNorm of the slab's part of image (B*F, C, H*W).
struct GatherArguments {
  const void* image;                  ///< f32, f16 or bf16
  const GroupStatistics* statistics;  ///< (B or B*F, groups)
  const float *gamma, *beta;          ///< (C)
  void* tokens;
  Slab slab;
  int channels, groups;
  bool per_frame;  ///< whether a row has statistics of its own
};

/// image (B*F, C, H*W) += tokens (M, C) in f32, at the slab's pixels.
struct ScatterArguments {
  const float* tokens;
  void* image;  ///< f32, f16 or bf16
  Slab slab;
  int channels;
};

/// y (M, I) in T = LayerNorm of x (M, I) in f32, plus the position of the token's frame.
struct LayerNormArguments {
  const float* x;
  const float *gamma, *beta;  ///< (I); both null for a norm without affine
  const float* positions;     ///< (frames or more, I); null for none
  void* y;
  int tokens, width, pixels;
  float epsilon;
};

enum class Epilogue {
  store,     ///< y in T
  widen,     ///< y in f32
  residual,  ///< y in f32, added to stream
  last,      ///< y in T, added to stream
  // y in T, activated. The gated two have 2 N rows of weights, values before gates.
  geglu,
  gelu,
  gelu_approximate,
  geglu_approximate,
  swiglu,
  linear_silu,
};
constexpr bool is_gated(Epilogue epilogue) { return epilogue == Epilogue::geglu || epilogue == Epilogue::swiglu; }

/// y (M, N) = epilogue(x W^T + bias): x (M, K) in T. W is up to three matrices of `rows` rows and K columns each, whose
/// products stand side by side in y: N = rows times their number. K, N and rows are multiples of 8.
struct LinearArguments {
  const void* x;
  const void* weights[3];
  const float* biases[3];  ///< null for none
  void* y;
  const float* stream;  ///< (M, N), what residual and last add to; may be y
  int m, n, k, rows;
};

/// out (M, heads*head_dim) in T = attention of the slab's tokens over `keys` keys a pixel. Key s of pixel p is row
/// (p + offset) / shared * base_step + s * key_step of key and value, whose rows are `key_stride` apart.
struct AttentionArguments {
  const void *query, *key, *value;
  void* out;
  int query_stride, key_stride;  ///< elements from row to row
  int pixels, frames, heads, head_dim, keys;
  int offset, shared, base_step, key_step;
  float scale;  ///< of the scores, times log2(e)
};

}  // namespace kineograph::engine::cuda

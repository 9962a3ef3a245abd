// Attention over the frames of a pixel, or over the tokens of its conditioning: a warp takes sixteen frames of one head
// of one pixel, and goes by sixteen keys with a running maximum and sum.
#pragma once

#include "engine/cuda/arguments.h"
#include "engine/cuda/instructions.h"

namespace kineograph::engine::cuda {

/// Elements from row to row in shared memory: 16 bytes more than kWidth, so that ldmatrix finds eight rows in eight
/// banks.
constexpr int attention_pitch(int width) { return width + 8; }
/// Warps of a block: it stays below 48 KB of shared memory, and sm_120 spills no register.
constexpr int attention_warps(int width) { return width <= 64 ? 4 : width <= 160 ? 2 : 1; }
constexpr std::size_t attention_shared(int width) {
  return std::size_t{2} * 3 * 16 * static_cast<std::size_t>(attention_warps(width) * attention_pitch(width));
}

/// The (query tile, head, pixel) of one warp. kWidth: head_dim padded with zeros to a multiple of 16.
template <class T, int kWidth>
class AttentionTile {
 public:
  static constexpr int kPitch = attention_pitch(kWidth), kWarps = attention_warps(kWidth);

  KINEOGRAPH_DEVICE AttentionTile(const AttentionArguments& arguments, unsigned char* memory)
      : p(arguments),
        lane(thread_x() % 32),
        q(reinterpret_cast<T*>(memory) + thread_x() / 32 * 3 * 16 * kPitch),
        k(q + 16 * kPitch),
        v(k + 16 * kPitch) {
    const int tiles = (p.frames + 15) / 16;
    const std::int64_t unit = block_x() * kWarps + thread_x() / 32;
    valid = unit < static_cast<std::int64_t>(p.pixels) * p.heads * tiles;
    first = static_cast<int>(unit % tiles) * 16;
    head = static_cast<int>(unit / tiles % p.heads);
    pixel = valid ? static_cast<int>(unit / tiles / p.heads) : 0;
  }

  KINEOGRAPH_DEVICE void load_queries() const {
    load(q, p.query, p.query_stride, pixel + static_cast<std::int64_t>(first) * p.pixels, p.pixels, p.frames - first);
  }
  KINEOGRAPH_DEVICE void load_keys(int key) const {
    const std::int64_t base = static_cast<std::int64_t>((pixel + p.offset) / p.shared) * p.base_step;
    const std::int64_t row = base + static_cast<std::int64_t>(key) * p.key_step;
    load(k, p.key, p.key_stride, row, p.key_step, p.keys - key);
    load(v, p.value, p.key_stride, row, p.key_step, p.keys - key);
  }

  /// s = scores of sixteen queries and keys [key, key + 16), in powers of two; -inf behind the last key.
  KINEOGRAPH_DEVICE void scores(int key, float (&s)[2][4]) const {
    KINEOGRAPH_UNROLL
    for (int d = 0; d < kWidth / 16; ++d) {
      std::uint32_t fq[4], fk[4];
      ldmatrix_x4(fq, q + lane % 16 * kPitch + d * 16 + lane / 16 * 8);
      ldmatrix_x4(fk, k + (lane / 16 * 8 + lane % 8) * kPitch + d * 16 + lane / 8 % 2 * 8);
      mma16816<T>(s[0], fq, fk[0], fk[1]);
      mma16816<T>(s[1], fq, fk[2], fk[3]);
    }
    KINEOGRAPH_UNROLL
    for (int n = 0; n < 2; ++n) KINEOGRAPH_UNROLL
    for (int e = 0; e < 4; ++e) s[n][e] = key + column(n, e) < p.keys ? s[n][e] * p.scale : -infinity();
  }

  /// Takes scores into the running softmax of rows g (half 0) or g + 8 (half 1), and makes weights of them.
  KINEOGRAPH_DEVICE void soften(int half, float (&s)[2][4], float (&o)[kWidth / 8][4]) {
    float highest = most[half];
    KINEOGRAPH_UNROLL
    for (int n = 0; n < 2; ++n) highest = max_of(highest, max_of(s[n][2 * half], s[n][2 * half + 1]));
    highest = max_of(highest, shuffle_xor(highest, 1));
    highest = max_of(highest, shuffle_xor(highest, 2));
    const float factor = exp2_of(most[half] - highest);
    most[half] = highest;
    total[half] *= factor;
    KINEOGRAPH_UNROLL
    for (int n = 0; n < kWidth / 8; ++n) o[n][2 * half] *= factor, o[n][2 * half + 1] *= factor;
    KINEOGRAPH_UNROLL
    for (int n = 0; n < 2; ++n) KINEOGRAPH_UNROLL
    for (int e = 2 * half; e < 2 * half + 2; ++e) {
      s[n][e] = exp2_of(s[n][e] - highest);
      total[half] += s[n][e];
    }
  }

  /// o += weights times values.
  KINEOGRAPH_DEVICE void add_values(const float (&s)[2][4], float (&o)[kWidth / 8][4]) const {
    const std::uint32_t weights[4] = {pack2<T>(s[0][0], s[0][1]), pack2<T>(s[0][2], s[0][3]),
                                      pack2<T>(s[1][0], s[1][1]), pack2<T>(s[1][2], s[1][3])};
    KINEOGRAPH_UNROLL
    for (int d = 0; d < kWidth / 16; ++d) {
      std::uint32_t fv[4];
      ldmatrix_x4_trans(fv, v + lane % 16 * kPitch + d * 16 + lane / 16 * 8);
      mma16816<T>(o[2 * d], weights, fv[0], fv[1]);
      mma16816<T>(o[2 * d + 1], weights, fv[2], fv[3]);
    }
  }

  KINEOGRAPH_DEVICE void store(const float (&o)[kWidth / 8][4]) {
    KINEOGRAPH_UNROLL
    for (int half = 0; half < 2; ++half) {
      float sum = total[half] + shuffle_xor(total[half], 1);
      sum += shuffle_xor(sum, 2);
      const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;  // no key: zeros
      const int frame = first + half * 8 + lane / 4;
      if (!valid || frame >= p.frames) continue;
      const std::int64_t row = static_cast<std::int64_t>(frame) * p.pixels + pixel;
      T* const out = static_cast<T*>(p.out) + row * p.heads * p.head_dim + head * p.head_dim;
      KINEOGRAPH_UNROLL
      for (int n = 0; n < kWidth / 8; ++n) {
        const int at = column(n, 0);
        if (at < p.head_dim) write_pair(out + at, Pair{o[n][2 * half] * inverse, o[n][2 * half + 1] * inverse});
      }
    }
  }

 private:
  /// Column of element e of the n-th eight.
  KINEOGRAPH_DEVICE int column(int n, int e) const { return n * 8 + lane % 4 * 2 + e % 2; }

  /// Queues the copy of this head's part of sixteen rows, of which `count` are there; the others, and what pads
  /// head_dim, become zeros.
  KINEOGRAPH_DEVICE void load(T* to, const void* from, int stride, std::int64_t row, int step, int count) const {
    const T* const source = static_cast<const T*>(from);
    for (int i = lane; i < 16 * (kWidth / 8); i += 32) {
      const int r = i / (kWidth / 8), column = i % (kWidth / 8) * 8;
      const bool there = valid && r < count && column < p.head_dim;
      const T* const at = source + (row + static_cast<std::int64_t>(r) * step) * stride + head * p.head_dim + column;
      cp_async16(to + r * kPitch + column, there ? at : source, there);
    }
  }

  const AttentionArguments& p;
  const int lane;
  T *const q, *const k, *const v;  ///< (16, kPitch) each
  bool valid;
  int first, head, pixel;  ///< first query's frame
  float most[2] = {-infinity(), -infinity()}, total[2] = {0.0f, 0.0f};
};

template <class T, int kWidth>
KINEOGRAPH_KERNEL(32 * attention_warps(kWidth))
attention_kernel(const AttentionArguments p) {
  KINEOGRAPH_SHARED(memory);
  AttentionTile<T, kWidth> tile(p, memory);
  float o[kWidth / 8][4] = {};
  tile.load_queries();
  for (int key = 0; key < p.keys; key += 16) {
    warp_sync();  // no lane reads the keys before any more
    tile.load_keys(key);
    cp_async_commit();
    cp_async_wait<0>();
    warp_sync();
    float s[2][4] = {};
    tile.scores(key, s);
    KINEOGRAPH_UNROLL
    for (int half = 0; half < 2; ++half) tile.soften(half, s, o);
    tile.add_values(s, o);
  }
  tile.store(o);
}

}  // namespace kineograph::engine::cuda

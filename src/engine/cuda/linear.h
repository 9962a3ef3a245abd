// The products: tiles of 128 tokens x 128 rows of weights, four warps of 64 x 64, tensor cores with f32 sums. Tokens
// are rows; weights are torch's own (N, K), read as they lie.
#pragma once

#include "engine/cuda/arguments.h"
#include "engine/cuda/instructions.h"

namespace kineograph::engine::cuda {

constexpr int kTileK = 32;  ///< columns of a slab: 64 bytes of a row
constexpr int kTileM = 128, kTileN = 128, kLinearThreads = 128, kLinearStages = 3;
/// 48 KB, what a block may have without asking.
constexpr std::size_t kLinearShared = std::size_t{kLinearStages} * (kTileM + kTileN) * kTileK * 2;

/// Offset of 16-byte chunk `chunk` of `row` in a swizzled (rows, 32): ldmatrix finds its eight rows in eight banks.
KINEOGRAPH_DEVICE int swizzled(int row, int chunk) { return row * kTileK + ((chunk ^ ((row >> 1) & 3)) << 3); }

KINEOGRAPH_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_of(-1.44269504f * x)); }

/// The activation of an epilogue; the gates' where it is gated.
template <Epilogue kEpilogue>
KINEOGRAPH_DEVICE float activate(float x) {
  if constexpr (kEpilogue == Epilogue::geglu || kEpilogue == Epilogue::gelu)
    return 0.5f * x * (1.0f + erf_of(x * 0.70710678f));
  else if constexpr (kEpilogue == Epilogue::gelu_approximate)
    return 0.5f * x * (1.0f + tanh_of(0.79788456f * (x + 0.044715f * x * x * x)));
  else if constexpr (kEpilogue == Epilogue::geglu_approximate)
    return x * sigmoid(1.702f * x);
  else
    return x * sigmoid(x);
}

/// One matrix of several, without an index that would put them into memory.
template <class T>
KINEOGRAPH_DEVICE T choose(int which, T a, T b, T c) {
  return which == 0 ? a : which == 1 ? b : c;
}

/// The part of a product that one block computes.
template <class T, Epilogue kEpilogue>
class LinearTile {
 public:
  static constexpr bool kGated = is_gated(kEpilogue);
  /// A warp's 64 rows of weights: 64 columns of y, or the values of 32 and their gates.
  static constexpr int kWarpColumns = kGated ? 32 : 64;

  KINEOGRAPH_DEVICE LinearTile(const LinearArguments& arguments, unsigned char* memory)
      : p(arguments),
        a(reinterpret_cast<T*>(memory)),
        b(a + kLinearStages * kTileM * kTileK),
        tid(thread_x()),
        m0(block_y() * kTileM),
        n0(static_cast<int>(block_x()) * 2 * kWarpColumns) {}

  /// Queues the copy of columns [k0, k0 + kTileK) of both operands.
  KINEOGRAPH_DEVICE void load(int k0, int stage) const {
    const T* const x = static_cast<const T*>(p.x);
    for (int i = tid; i < kTileM * 4; i += kLinearThreads) {
      const int row = m0 + i / 4, column = k0 + i % 4 * 8;
      const bool valid = row < p.m && column < p.k;
      cp_async16(a + stage * kTileM * kTileK + swizzled(i / 4, i % 4),
                 valid ? x + static_cast<std::int64_t>(row) * p.k + column : x, valid);
    }
    for (int i = tid; i < kTileN * 4; i += kLinearThreads) {
      const int column = k0 + i % 4 * 8;
      const bool valid = column_of(i / 4) < p.n && column < p.k;
      const T* const row = valid ? weight_row(i / 4) + column : static_cast<const T*>(p.weights[0]);
      cp_async16(b + stage * kTileN * kTileK + swizzled(i / 4, i % 4), row, valid);
    }
  }

  /// sum += the product of a stage's columns.
  KINEOGRAPH_DEVICE void multiply(int stage, float (&sum)[4][8][4]) const {
    const int lane = tid % 32;
    const T* const left = a + stage * kTileM * kTileK;
    const T* const right = b + stage * kTileN * kTileK;
    KINEOGRAPH_UNROLL
    for (int kk = 0; kk < kTileK / 16; ++kk) {
      std::uint32_t fa[4][4], fb[4][4];
      KINEOGRAPH_UNROLL
      for (int i = 0; i < 4; ++i)
        ldmatrix_x4(fa[i], left + swizzled(warp_m() * 64 + i * 16 + lane % 16, 2 * kk + lane / 16));
      // Rows n to n + 7 at k and at k + 8, then rows n + 8 to n + 15 at k and at k + 8.
      KINEOGRAPH_UNROLL
      for (int j = 0; j < 4; ++j)
        ldmatrix_x4(fb[j], right + swizzled(warp_n() * 64 + j * 16 + lane / 16 * 8 + lane % 8, 2 * kk + lane / 8 % 2));
      KINEOGRAPH_UNROLL
      for (int i = 0; i < 4; ++i) KINEOGRAPH_UNROLL
      for (int j = 0; j < 4; ++j) {
        mma16816<T>(sum[i][2 * j], fa[i], fb[j][0], fb[j][1]);
        mma16816<T>(sum[i][2 * j + 1], fa[i], fb[j][2], fb[j][3]);
      }
    }
  }

  /// A lane has rows g and g + 8 of each 16, columns 2 t and 2 t + 1 of each 8.
  KINEOGRAPH_DEVICE void finish(const float (&sum)[4][8][4]) const {
    const int g = tid % 32 / 4, t = tid % 4;
    KINEOGRAPH_UNROLL
    for (int j = 0; j < kWarpColumns / 8; ++j) {
      const int column = n0 + warp_n() * kWarpColumns + j * 8 + 2 * t;
      if (column >= p.n) continue;
      const Pair value = bias_of(column), gate = kGated ? bias_of(p.n + column) : Pair{0.0f, 0.0f};
      KINEOGRAPH_UNROLL
      for (int i = 0; i < 4; ++i) KINEOGRAPH_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int row = m0 + warp_m() * 64 + i * 16 + h * 8 + g;
        if (row >= p.m) continue;
        const Pair v = {sum[i][j][2 * h] + value.low, sum[i][j][2 * h + 1] + value.high};
        if constexpr (kGated) {
          const Pair by = {sum[i][j + 4][2 * h] + gate.low, sum[i][j + 4][2 * h + 1] + gate.high};
          store(row, column, {v.low * activate<kEpilogue>(by.low), v.high * activate<kEpilogue>(by.high)});
        } else {
          store(row, column, v);
        }
      }
    }
  }

 private:
  KINEOGRAPH_DEVICE int warp_m() const { return tid / 64; }
  KINEOGRAPH_DEVICE int warp_n() const { return tid / 32 % 2; }

  /// Column of y that row r of the tile's weights belongs to.
  KINEOGRAPH_DEVICE int column_of(int r) const { return kGated ? n0 + r / 64 * 32 + r % 32 : n0 + r; }
  KINEOGRAPH_DEVICE const T* weight_row(int r) const {
    const int row = kGated && r % 64 >= 32 ? p.n + column_of(r) : column_of(r), which = kGated ? 0 : row / p.rows;
    const void* const weights = choose(which, p.weights[0], p.weights[1], p.weights[2]);
    return static_cast<const T*>(weights) + static_cast<std::int64_t>(row - which * p.rows) * p.k;
  }
  KINEOGRAPH_DEVICE Pair bias_of(int row) const {
    const int which = kGated ? 0 : row / p.rows;
    const float* const bias = choose(which, p.biases[0], p.biases[1], p.biases[2]);
    return bias == nullptr ? Pair{0.0f, 0.0f} : read_pair(bias + row - which * p.rows);
  }
  KINEOGRAPH_DEVICE void store(int row, int column, Pair v) const {
    const std::int64_t at = static_cast<std::int64_t>(row) * p.n + column;
    if constexpr (kEpilogue == Epilogue::widen) {
      write_pair(static_cast<float*>(p.y) + at, v);
    } else if constexpr (kEpilogue == Epilogue::residual || kEpilogue == Epilogue::last) {
      const Pair x = read_pair(p.stream + at);
      using Y = std::conditional_t<kEpilogue == Epilogue::last, T, float>;
      write_pair(static_cast<Y*>(p.y) + at, Pair{x.low + v.low, x.high + v.high});
    } else if constexpr (kEpilogue == Epilogue::store || kGated) {
      write_pair(static_cast<T*>(p.y) + at, v);
    } else {
      write_pair(static_cast<T*>(p.y) + at, Pair{activate<kEpilogue>(v.low), activate<kEpilogue>(v.high)});
    }
  }

  const LinearArguments& p;
  T* const a;  ///< (stages, 128 tokens, 32)
  T* const b;  ///< (stages, 128 rows of weights, 32)
  const int tid, m0, n0;
};

/// One block a tile of y. Copies run two stages ahead of the products.
template <class T, Epilogue kEpilogue>
KINEOGRAPH_KERNEL(kLinearThreads)
linear_kernel(const LinearArguments p) {
  KINEOGRAPH_SHARED(memory);
  const LinearTile<T, kEpilogue> tile(p, memory);
  float sum[4][8][4] = {};
  const int steps = (p.k + kTileK - 1) / kTileK;
  KINEOGRAPH_UNROLL
  for (int s = 0; s < kLinearStages - 1; ++s) {
    if (s < steps) tile.load(s * kTileK, s);
    cp_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kLinearStages - 2>();
    // The stage has arrived for all threads, and all are through with the one that is loaded next.
    block_sync();
    const int next = step + kLinearStages - 1;
    if (next < steps) tile.load(next * kTileK, next % kLinearStages);
    cp_async_commit();
    tile.multiply(step % kLinearStages, sum);
  }
  tile.finish(sum);
}

}  // namespace kineograph::engine::cuda

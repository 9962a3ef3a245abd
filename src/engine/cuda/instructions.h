// The instructions that kernels are written in: a handful of warp-wide ones, which are PTX here. tests/cuda has a file
// of the same name and names in which they are loops, so that the kernels run on any machine.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "engine/cuda/runtime.h"

namespace kineograph::engine::cuda {

using Bf16 = __nv_bfloat16;
using F16 = __half;

#define KINEOGRAPH_DEVICE __device__ __forceinline__
#define KINEOGRAPH_KERNEL(threads) __global__ void __launch_bounds__(threads)
#define KINEOGRAPH_UNROLL _Pragma("unroll")
#define KINEOGRAPH_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

KINEOGRAPH_DEVICE int thread_x() { return static_cast<int>(threadIdx.x); }
KINEOGRAPH_DEVICE std::int64_t block_x() { return static_cast<std::int64_t>(blockIdx.x); }
KINEOGRAPH_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
KINEOGRAPH_DEVICE void block_sync() { __syncthreads(); }
KINEOGRAPH_DEVICE void warp_sync() { __syncwarp(); }
KINEOGRAPH_DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }

KINEOGRAPH_DEVICE std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// d (16 x 8) += a (16 x 16) b (16 x 8), in f32. PTX ISA, "Matrix fragments for mma.m16n8k16", has the lanes' elements.
template <class T>
KINEOGRAPH_DEVICE void mma16816(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<T, Bf16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices of 16-bit elements; lane 8 i + y gives the address of row y of matrix i.
KINEOGRAPH_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same, each matrix transposed.
KINEOGRAPH_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Copies 16 bytes from global to shared memory in the background, or zeros where not `valid`. Both addresses are
/// multiples of 16.
KINEOGRAPH_DEVICE void cp_async16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
/// Ends a group of this thread's copies.
KINEOGRAPH_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until all of this thread's groups but the newest kLeft have arrived. Other threads see them after a barrier.
template <int kLeft>
KINEOGRAPH_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

KINEOGRAPH_DEVICE float exp2_of(float x) { return exp2f(x); }
KINEOGRAPH_DEVICE float erf_of(float x) { return erff(x); }
KINEOGRAPH_DEVICE float tanh_of(float x) { return tanhf(x); }
KINEOGRAPH_DEVICE float rsqrt_of(float x) { return rsqrtf(x); }
KINEOGRAPH_DEVICE float infinity() { return __int_as_float(0x7f800000); }
KINEOGRAPH_DEVICE float max_of(float a, float b) { return fmaxf(a, b); }

KINEOGRAPH_DEVICE float widen(float v) { return v; }
KINEOGRAPH_DEVICE float widen(Bf16 v) { return __bfloat162float(v); }
KINEOGRAPH_DEVICE float widen(F16 v) { return __half2float(v); }
/// Rounds to nearest even.
template <class T>
KINEOGRAPH_DEVICE T narrow(float v) {
  if constexpr (std::is_same_v<T, Bf16>)
    return __float2bfloat16_rn(v);
  else if constexpr (std::is_same_v<T, F16>)
    return __float2half_rn(v);
  else
    return v;
}
/// Two elements in a register, the first in its low half.
template <class T>
KINEOGRAPH_DEVICE std::uint32_t pack2(float low, float high) {
  if constexpr (std::is_same_v<T, Bf16>) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&v);
  } else {
    const __half2 v = __floats2half2_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&v);
  }
}

struct Pair {
  float low, high;
};
/// Two neighbours, in memory that is aligned to both.
KINEOGRAPH_DEVICE Pair read_pair(const float* p) {
  const float2 v = *reinterpret_cast<const float2*>(p);
  return {v.x, v.y};
}
KINEOGRAPH_DEVICE void write_pair(float* p, Pair v) { *reinterpret_cast<float2*>(p) = make_float2(v.low, v.high); }
template <class T>
KINEOGRAPH_DEVICE void write_pair(T* p, Pair v) {
  *reinterpret_cast<std::uint32_t*>(p) = pack2<T>(v.low, v.high);
}

/// Queues a kernel. A failure of the launch throws.
template <class Arguments>
void launch(void (*kernel)(Arguments), std::int64_t grid_x, std::int64_t grid_y, int threads, std::size_t shared,
            Stream stream, const Arguments& arguments) {
  if (grid_x == 0 || grid_y == 0) return;
  const dim3 grid(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y));
  kernel<<<grid, static_cast<unsigned>(threads), shared, static_cast<cudaStream_t>(stream)>>>(arguments);
  check_launch();
}

}  // namespace kineograph::engine::cuda

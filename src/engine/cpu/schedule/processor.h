// What the processor has that Highway does not ask about.
#pragma once

namespace kineograph::engine::cpu {

// x86: whether what Highway compiles for SSE4, AVX2 or AVX3 runs here. Highway itself also asks for AES and PCLMUL,
// which the engine has no use for and some hypervisors and the first Core i7 do not have.
bool has_sse4();
bool has_avx2();
bool has_avx512();

/// Dot products of bf16 pairs (AVX512-BF16).
bool has_bf16_dot_products();

/// The same at a rate that is worth it: on Intel's processors one takes four times a fused multiply-add, for twice the
/// work.
bool has_fast_bf16_dot_products();

/// A matrix unit for bf16 pairs (AMX) that the system lets this process use; asks the system for it.
bool has_amx();

}  // namespace kineograph::engine::cpu

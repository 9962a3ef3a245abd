// A processor whose matrix unit is instructions.h.
#include "engine/cpu/schedule/processor.h"

namespace kineograph::engine::cpu {

bool has_sse4() { return false; }
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_bf16_dot_products() { return __builtin_cpu_supports("avx512bf16"); }
bool has_fast_bf16_dot_products() { return false; }
bool has_amx() { return has_bf16_dot_products(); }

}  // namespace kineograph::engine::cpu

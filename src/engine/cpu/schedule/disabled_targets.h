// Which of Highway's instruction sets the engine is not compiled for; included before foreach_target.h.
#pragma once

#define HWY_WANT_AVX3_DL 1
// Scalable vectors cannot be kept in arrays; nothing is gained between SSE4 and the portable code.
#ifndef HWY_DISABLED_TARGETS  // tests/emulated_amx names more
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif

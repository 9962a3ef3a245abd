// The instruction sets of Highway that the engine is not compiled for; included before foreach_target.h.
#pragma once

#define HWY_WANT_AVX3_DL 1
#ifndef HWY_DISABLED_TARGETS  // tests/emulated_amx names more
// Scalable vectors cannot be kept in arrays; nothing is gained between SSE4 and the portable code.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#include "hwy/detect_targets.h"
#ifdef HWY_AVX3_ZEN4  // Highway 1.0.5 and newer have more, which targets.cc does not offer
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSE2 | HWY_SSSE3 | HWY_AVX3_ZEN4 | HWY_AVX3_SPR | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif
#endif

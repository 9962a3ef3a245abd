// The instruction sets of Highway that the engine is not compiled for; included before foreach_target.h. What is
// compiled is offered by targets.cc, but for HWY_SCALAR, which Highway insists on where a machine has nothing else for
// certain.
#pragma once

#define HWY_WANT_AVX3_DL 1
#ifndef KINEOGRAPH_DISABLED_TARGETS  // tests/emulated_amx names some
#define KINEOGRAPH_DISABLED_TARGETS 0
#endif
#ifndef HWY_DISABLED_TARGETS
// Scalable vectors cannot be kept in arrays; nothing is gained between SSE4 and what is always there.
#define HWY_DISABLED_TARGETS (KINEOGRAPH_DISABLED_TARGETS | HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#include "hwy/detect_targets.h"
// Newer Highways have sets that differ from others in nothing that the engine uses: AVX3_DL is compiled with bf16's dot
// products added (target-inl.h), and AES is of no use to NEON.
#ifdef HWY_NEON_BF16
#define KINEOGRAPH_NEEDLESS_TARGETS (HWY_AVX3_ZEN4 | HWY_AVX3_SPR | HWY_NEON | HWY_NEON_BF16)
#elif defined(HWY_AVX3_SPR)
#define KINEOGRAPH_NEEDLESS_TARGETS (HWY_AVX3_ZEN4 | HWY_AVX3_SPR)
#elif defined(HWY_AVX3_ZEN4)
#define KINEOGRAPH_NEEDLESS_TARGETS HWY_AVX3_ZEN4
#endif
#ifdef KINEOGRAPH_NEEDLESS_TARGETS
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS                                                                                  \
  (KINEOGRAPH_DISABLED_TARGETS | KINEOGRAPH_NEEDLESS_TARGETS | HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | \
   HWY_SVE2_128)
#endif
#endif

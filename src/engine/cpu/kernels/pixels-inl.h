// Vectors of pixels of any floating type.
#if defined(KINEOGRAPH_CPU_KERNELS_PIXELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_PIXELS_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_PIXELS_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_PIXELS_INL_H_
#endif

#include <type_traits>

#include "base/half.h"
#include "engine/cpu/kernels/target-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

HWY_INLINE Vec LoadPixels(const float* p) { return hn::LoadU(D(), p); }
HWY_INLINE Vec LoadPixels(const bf16* p) {
  const hn::Rebind<std::uint16_t, D> d16;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p));
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), bits)));
}
HWY_INLINE Vec LoadPixels(const f16* p) {
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(D(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

HWY_INLINE void StorePixels(Vec v, float* p) { hn::StoreU(v, D(), p); }
HWY_INLINE void StorePixels(Vec v, bf16* p) {
  const hn::Rebind<std::uint16_t, D> d16;
  // The low halves hold the bits, so the saturating narrowing of i32 to u16 does not saturate.
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), RoundToBf16(v))), d16, reinterpret_cast<std::uint16_t*>(p));
}
HWY_INLINE void StorePixels(Vec v, f16* p) {
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSE2 || HWY_TARGET == HWY_EMU128
  // Highway 1.0.3 truncates where the machine has no conversion of its own.
  HWY_ALIGN float lanes[kLanes];
  hn::Store(v, D(), lanes);
  for (std::size_t i = 0; i < kLanes; ++i) p[i] = to_f16(lanes[i]);
#else
  const hn::Rebind<hwy::float16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(p));
#endif
}

/// Stores pixels that are not read again soon. Whole cache lines go past the caches; part of a line would be written to
/// memory by itself, so narrower vectors wait in the caches for their neighbours.
template <class T>
HWY_INLINE void StreamPixels(Vec v, T* p) {
  constexpr std::size_t kLine = 64;
  if constexpr (std::is_same_v<T, float> && kLanes * sizeof(float) == kLine) {
    if (reinterpret_cast<std::uintptr_t>(p) % kLine == 0) return hn::Stream(v, D(), p);
  }
  StorePixels(v, p);
}

/// N pixels as they are.
HWY_INLINE void CopyPixels(const bf16* from, bf16* to) {
  const hn::Rebind<std::uint16_t, D> d16;
  hn::StoreU(hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from)), d16, reinterpret_cast<std::uint16_t*>(to));
}

template <class Body>
HWY_INLINE void DispatchPixels(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f16:
      return body(f16{});
    case DType::bf16:
      return body(bf16{});
    default:
      return body(float{});
  }
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

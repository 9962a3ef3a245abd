// Between the caller's (B*F, C, H, W) memory and a tile's vectors.
#if defined(KINEOGRAPH_CPU_TILE_IMAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_TILE_IMAGE_INL_H_
#undef KINEOGRAPH_CPU_TILE_IMAGE_INL_H_
#else
#define KINEOGRAPH_CPU_TILE_IMAGE_INL_H_
#endif

#include <type_traits>

#include "base/half.h"
#include "engine/cpu/call/call.h"
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
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_EMU128
  // Highway 1.0.3 truncates where the machine has no conversion of its own.
  HWY_ALIGN float lanes[kLanes];
  hn::Store(v, D(), lanes);
  for (std::size_t i = 0; i < kLanes; ++i) p[i] = to_f16(lanes[i]);
#else
  const hn::Rebind<hwy::float16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(p));
#endif
}

/// Stores what nobody reads soon. Whole cache lines go past the caches; part of a line would be written to memory by
/// itself, so narrower vectors wait in the caches for their neighbours.
template <class T>
HWY_INLINE void StreamPixels(Vec v, T* p) {
  constexpr std::size_t kLine = 64;
  if constexpr (std::is_same_v<T, float> && kLanes * sizeof(float) == kLine) {
    if (reinterpret_cast<std::uintptr_t>(p) % kLine == 0) return hn::Stream(v, D(), p);
  }
  StorePixels(v, p);
}

/// N pixels as they are, to where nobody reads them soon.
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

/// Where the N pixels of one group of a tile lie.
struct PixelGroup {
  bool whole = false;          ///< N pixels of one video, next to each other in memory: one load
  std::size_t valid = 0;       ///< lanes that are pixels; the rest are zeros
  std::size_t video[kLanes];   ///< of each valid lane
  std::int64_t input[kLanes];  ///< element offset of frame 0, channel 0
  std::int64_t output[kLanes];
};

inline PixelGroup LocateGroup(const Call& call, const Tile& tile, std::size_t group) {
  PixelGroup g;
  const std::size_t begin = group * kLanes;
  g.valid = tile.count > begin ? std::min(kLanes, tile.count - begin) : 0;
  const auto frames = static_cast<std::int64_t>(call.frames);
  for (std::size_t lane = 0; lane < g.valid; ++lane) {
    const std::size_t flat = tile.first + begin + lane;
    const std::size_t pixel = flat % call.pixels;
    g.video[lane] = flat / call.pixels;
    const auto row = static_cast<std::int64_t>(pixel / call.width), col = static_cast<std::int64_t>(pixel % call.width);
    const auto video_row = static_cast<std::int64_t>(g.video[lane]) * frames;
    const auto at = [&](const Image& image) {
      return video_row * image.stride_n + row * image.stride_h + col * image.stride_w;
    };
    g.input[lane] = at(call.input);
    g.output[lane] = at(call.output);
  }
  g.whole = g.valid == kLanes;
  for (std::size_t lane = 1; lane < g.valid; ++lane)
    g.whole = g.whole && g.input[lane] == g.input[0] + static_cast<std::int64_t>(lane) &&
              g.output[lane] == g.output[0] + static_cast<std::int64_t>(lane) && g.video[lane] == g.video[0];
  return g;
}

/// Reads channel c of one frame, normalised.
template <class T>
HWY_INLINE Vec GatherNormalised(const Call& call, const PixelGroup& g, std::size_t frame, std::size_t c) {
  const D d;
  const std::size_t channels = call.model->channels;
  const auto set_of = [&](std::size_t video) {
    return (call.group_set_per_frame ? video * call.frames + frame : video) * channels + c;
  };
  const auto* from = reinterpret_cast<const T*>(call.input.data) +
                     static_cast<std::int64_t>(frame) * call.input.stride_n +
                     static_cast<std::int64_t>(c) * call.input.stride_c;
  if (g.whole) {
    const std::size_t i = set_of(g.video[0]);
    return hn::MulAdd(hn::Sub(LoadPixels(from + g.input[0]), hn::Set(d, call.group_mean[i])),
                      hn::Set(d, call.group_scale[i]), hn::Set(d, call.group_shift[i]));
  }
  HWY_ALIGN float x[kLanes] = {}, mean[kLanes] = {}, scale[kLanes] = {}, shift[kLanes] = {};
  for (std::size_t lane = 0; lane < g.valid; ++lane) {
    const std::size_t i = set_of(g.video[lane]);
    x[lane] = to_float(from[g.input[lane]]);
    mean[lane] = call.group_mean[i];
    scale[lane] = call.group_scale[i];
    shift[lane] = call.group_shift[i];
  }
  return hn::MulAdd(hn::Sub(hn::Load(d, x), hn::Load(d, mean)), hn::Load(d, scale), hn::Load(d, shift));
}

/// Adds the input to one channel of one frame and writes it to the output.
template <class In, class Out>
HWY_INLINE void ScatterResidual(const Call& call, const PixelGroup& g, std::size_t frame, std::size_t c, Vec value) {
  const auto* from = reinterpret_cast<const In*>(call.input.data) +
                     static_cast<std::int64_t>(frame) * call.input.stride_n +
                     static_cast<std::int64_t>(c) * call.input.stride_c;
  auto* to = reinterpret_cast<Out*>(call.output.data) + static_cast<std::int64_t>(frame) * call.output.stride_n +
             static_cast<std::int64_t>(c) * call.output.stride_c;
  if (g.whole) {
    StreamPixels(hn::Add(value, LoadPixels(from + g.input[0])), to + g.output[0]);
    return;
  }
  HWY_ALIGN float lanes[kLanes];
  hn::Store(value, D(), lanes);
  for (std::size_t lane = 0; lane < g.valid; ++lane)
    to[g.output[lane]] = from_float<Out>(lanes[lane] + to_float(from[g.input[lane]]));
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

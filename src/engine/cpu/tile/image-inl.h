// Between the caller's (B*F, C, H, W) memory and a tile's vectors.
#if defined(KINEOGRAPH_CPU_TILE_IMAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_TILE_IMAGE_INL_H_
#undef KINEOGRAPH_CPU_TILE_IMAGE_INL_H_
#else
#define KINEOGRAPH_CPU_TILE_IMAGE_INL_H_
#endif

#include "engine/cpu/call/call.h"
#include "engine/cpu/kernels/pixels-inl.h"
#include "engine/cpu/tile/tile.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Offsets of the N pixels of one run of a tile in two images.
struct PixelRun {
  bool whole = false;          ///< N pixels of one video, next to each other in memory: one load
  std::size_t valid = 0;       ///< lanes that are pixels; the rest are zeros
  std::size_t video[kLanes];   ///< of each valid lane
  std::int64_t input[kLanes];  ///< element offset of frame 0, channel 0
  std::int64_t output[kLanes];
};

/// `input` and `output` have the call's extents; an absent one lies where the other does.
inline PixelRun LocateRun(const Call& call, const Image& input, const Image& output, const Tile& tile,
                          std::size_t run) {
  PixelRun g;
  const std::size_t begin = run * kLanes;
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
    g.input[lane] = at(input ? input : output);
    g.output[lane] = at(output ? output : input);
  }
  g.whole = g.valid == kLanes;
  for (std::size_t lane = 1; lane < g.valid; ++lane)
    g.whole = g.whole && g.input[lane] == g.input[0] + static_cast<std::int64_t>(lane) &&
              g.output[lane] == g.output[0] + static_cast<std::int64_t>(lane) && g.video[lane] == g.video[0];
  return g;
}

/// Reads channel c of one frame, normalised.
template <class T>
HWY_INLINE Vec GatherNormalised(const Call& call, const PixelRun& g, std::size_t frame, std::size_t c) {
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
HWY_INLINE void ScatterResidual(const Call& call, const PixelRun& g, std::size_t frame, std::size_t c, Vec value) {
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

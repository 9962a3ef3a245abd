// Moments of runs of neighbouring pixels.
#if defined(KINEOGRAPH_CPU_KERNELS_MOMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_KERNELS_MOMENTS_INL_H_
#undef KINEOGRAPH_CPU_KERNELS_MOMENTS_INL_H_
#else
#define KINEOGRAPH_CPU_KERNELS_MOMENTS_INL_H_
#endif

#include "base/moments.h"
#include "engine/cpu/kernels/pixels-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

/// Pixels of a chunk: two passes over it hit the L1 cache, and a lane sums few enough values for f32.
inline constexpr std::size_t kChunk = 4096;

HWY_INLINE double SumLanes(Vec a, Vec b, Vec c, Vec e) {
  HWY_ALIGN float lanes[kLanes];
  hn::Store(hn::Add(hn::Add(a, b), hn::Add(c, e)), D(), lanes);
  double sum = 0.0;
  for (float lane : lanes) sum += static_cast<double>(lane);
  return sum;
}

template <class T>
Moments ChunkMoments(const T* pixels, std::size_t count) {
  const D d;
  constexpr std::size_t kStep = 4 * kLanes;
  const std::size_t whole = count / kStep * kStep;
  Vec sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (std::size_t i = 0; i < whole; i += kStep)
    for (std::size_t j = 0; j < 4; ++j) {
      __builtin_prefetch(pixels + i + j * kLanes + 1024);
      sum[j] = hn::Add(sum[j], LoadPixels(pixels + i + j * kLanes));
    }
  double total = SumLanes(sum[0], sum[1], sum[2], sum[3]);
  for (std::size_t i = whole; i < count; ++i) total += static_cast<double>(to_float(pixels[i]));
  const double n = static_cast<double>(count);
  // Deviations from the rounded mean, and the part that rounding missed.
  const auto rough = static_cast<float>(total / n);
  const Vec centre = hn::Set(d, rough);
  Vec square[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (auto& s : sum) s = hn::Zero(d);
  for (std::size_t i = 0; i < whole; i += kStep)
    for (std::size_t j = 0; j < 4; ++j) {
      const Vec v = hn::Sub(LoadPixels(pixels + i + j * kLanes), centre);
      sum[j] = hn::Add(sum[j], v);
      square[j] = hn::MulAdd(v, v, square[j]);
    }
  double missed = SumLanes(sum[0], sum[1], sum[2], sum[3]), m2 = SumLanes(square[0], square[1], square[2], square[3]);
  for (std::size_t i = whole; i < count; ++i) {
    const double v = static_cast<double>(to_float(pixels[i])) - static_cast<double>(rough);
    missed += v;
    m2 += v * v;
  }
  return {n, static_cast<double>(rough) + missed / n, std::max(0.0, m2 - missed * missed / n)};
}

/// `count` pixels -> floats at `to`.
template <class T>
HWY_INLINE void CopyAsFloats(const T* from, std::size_t count, float* to) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __builtin_prefetch(from + i + 1024);
    hn::StoreU(LoadPixels(from + i), D(), to + i);
  }
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

/// Runs that are short are laid side by side, so that a sum over lanes is taken once a chunk. What is summed with what
/// depends on `count` and `runs` only: neither on the dtype nor on where the runs lie.
template <class T>
Moments PixelMoments(const T* pixels, std::size_t count, std::size_t runs, std::ptrdiff_t stride) {
  const auto run = [&](std::size_t i) { return pixels + static_cast<std::ptrdiff_t>(i) * stride; };
  Moments all;
  if (2 * count > kChunk) {
    for (std::size_t r = 0; r < runs; ++r)
      for (std::size_t i = 0; i < count; i += kChunk)
        append(all, ChunkMoments(run(r) + i, std::min(kChunk, count - i)));
    return all;
  }
  HWY_ALIGN float chunk[kChunk];
  const std::size_t most = kChunk / count;
  for (std::size_t r = 0; r < runs; r += most) {
    const std::size_t here = std::min(most, runs - r);
    for (std::size_t i = 0; i < here; ++i) CopyAsFloats(run(r + i), count, chunk + i * count);
    append(all, ChunkMoments(chunk, here * count));
  }
  return all;
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif

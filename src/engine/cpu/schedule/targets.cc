// Compiles the engine once per instruction set, and lists the ones that run here.
// clang-format off: the order of these lines is what makes foreach_target.h include this file again and again.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/schedule/targets.cc"
#include "engine/cpu/schedule/disabled_targets.h"
#include "hwy/foreach_target.h"
// clang-format on

#include <chrono>

#include "engine/cpu/schedule/processor.h"
#include "engine/cpu/schedule/targets.h"

#if HWY_TARGET != HWY_SCALAR  // not offered
#include "engine/cpu/forward/walk-inl.h"
#include "engine/cpu/kernels/moments-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

// backward/targets.cc
void WalkBackward(const BackwardCall& backward, const Tile& tile, Team& team, Turns& turns, BackwardBuffers& buffers);
std::size_t BackwardScratch(std::size_t queries, std::size_t keys);

// spatial/targets.cc
template <Arithmetic kArithmetic>
void WalkSegment(const RowsCall& rows, const Segment& segment, const Tile& tile, Team& team, Workspace& workspace);

template <Arithmetic kArithmetic>
bool WalkTile(const Call& call, const Tile& tile, bool gathered, TileSource* next, Team& team, Workspace& workspace) {
  return Walk<kArithmetic>(call, tile, team, workspace).Run(gathered, next);
}

Moments MomentsOf(const void* pixels, DType dtype, std::size_t count, std::size_t runs, std::ptrdiff_t stride) {
  Moments result;
  DispatchPixels(dtype, [&]<class T>(T) { result = PixelMoments(static_cast<const T*>(pixels), count, runs, stride); });
  return result;
}

/// The best of short runs of `work`, in GFLOP/s.
template <class Work>
double BestRate(double seconds, double flops, Work&& work) {
  double best = 0.0, spent = 0.0;
  while (spent < seconds) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    spent += took;
    best = std::max(best, flops / took / 1e9);
  }
  return best;
}

/// Independent multiply-adds on registers: enough of them in flight to hide their latency.
template <Arithmetic kArithmetic>
double PeakFlops(double seconds) {
  const D d;
  constexpr std::size_t kChains = kMaxRows >= 14 ? 16 : 10;
  Vec sum[kChains];
  for (auto& s : sum) s = hn::Set(d, 0.1f);
  [[maybe_unused]] Vec a = hn::Set(d, 1.0001f), b = hn::Set(d, 1e-6f);
  constexpr std::size_t kRounds = 100000;
  const double flops = (kArithmetic == Arithmetic::bf16 ? 4.0 : 2.0) * kLanes * kChains * kRounds;
  const double best = BestRate(seconds, flops, [&]() KINEOGRAPH_ATTR {
    for (std::size_t r = 0; r < kRounds; ++r) {
      KINEOGRAPH_UNROLL for (std::size_t i = 0; i < kChains; ++i) {
        if constexpr (kArithmetic == Arithmetic::bf16) {
#if KINEOGRAPH_NATIVE_BF16
          sum[i].raw = _mm512_dpbf16_ps(sum[i].raw, reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80)),
                                        reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x33803380)));
#endif
        } else {
          sum[i] = hn::MulAdd(sum[i], a, b);
        }
      }
    }
  });
  Vec total = sum[0];
  for (std::size_t i = 1; i < kChains; ++i) total = hn::Add(total, sum[i]);
  [[maybe_unused]] volatile float used = hn::GetLane(total);
  return best;
}

#if KINEOGRAPH_NATIVE_BF16
/// The same on the matrix unit, by the kernel's four registers of sums.
double PeakAmxFlops(double seconds) {
  constexpr std::size_t kRounds = 10000;
  const AmxRegisters registers;  // zeros
  return BestRate(seconds, 4.0 * 2.0 * kAmxRows * 2 * kAmxWords * kLanes * kRounds, [&]() KINEOGRAPH_ATTR {
    for (std::size_t r = 0; r < kRounds; ++r) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  });
}
#endif

double PeakOf([[maybe_unused]] Arithmetic arithmetic, double seconds) {
#if KINEOGRAPH_NATIVE_BF16
  if (arithmetic == Arithmetic::bf16) return PeakFlops<Arithmetic::bf16>(seconds);
  if (arithmetic == Arithmetic::bf16_amx) return PeakAmxFlops(seconds);
#endif
  return PeakFlops<Arithmetic::f32>(seconds);
}

template <class Function>
HWY_INLINE void ApplyTo(const float* in, float* out, std::size_t n, Function&& function) {
  const D d;
  HWY_ALIGN float lanes[kLanes] = {};
  for (std::size_t i = 0; i < n; i += kLanes) {
    const std::size_t count = std::min(kLanes, n - i);
    std::copy_n(in + i, count, lanes);
    hn::Store(function(hn::Load(d, lanes)), d, lanes);
    std::copy_n(lanes, count, out + i);
  }
}

void Apply(int which, const float* in, float* out, std::size_t n) {
  switch (static_cast<VectorFunction>(which)) {
    case kExp2:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return Exp2(x); });
    case kShortExp2:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return ShortExp2<5>(x); });
    case kShorterExp2:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return ShortExp2<3>(x); });
    case kSigmoid:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return Sigmoid(x); });
    case kTanh:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return Tanh(x); });
    case kGeluErf:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return GeluErf(x); });
    case kGeluTanh:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return GeluTanh(x); });
    case kSilu:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return Silu(x); });
    case kGeluSigmoid:
      return ApplyTo(in, out, n, [](Vec x) KINEOGRAPH_ATTR { return GeluSigmoid(x); });
  }
}

template <Arithmetic kArithmetic>
void Offer(Target& target) {
  target.walk[static_cast<int>(kArithmetic)] = &WalkTile<kArithmetic>;
  target.walk_segment[static_cast<int>(kArithmetic)] = &WalkSegment<kArithmetic>;
  target.project_tokens[static_cast<int>(kArithmetic)] = &ProjectTokens<kArithmetic>;
}

Target Describe(std::string_view name, Arithmetic bf16 = Arithmetic::bf16_storage) {
  Target target;
  target.name = name;
  target.lanes = kLanes;
  target.max_rows = kMaxRows;
  target.bf16 = bf16;
  Offer<Arithmetic::f32>(target);
  Offer<Arithmetic::bf16_storage>(target);
#if KINEOGRAPH_NATIVE_BF16
  Offer<Arithmetic::bf16>(target);
  Offer<Arithmetic::bf16_amx>(target);
#endif
  target.walk_backward = &WalkBackward;
  target.backward_scratch = &BackwardScratch;
  target.moments = &MomentsOf;
  target.peak_flops = &PeakOf;
  target.apply = &Apply;
  return target;
}

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE
#endif

#if HWY_ONCE
namespace kineograph::engine::cpu {
namespace {

std::vector<Target> FindTargets() {
  std::vector<Target> found;
  [[maybe_unused]] const std::int64_t supported = hwy::SupportedTargets();
#if HWY_ARCH_X86
#if HWY_TARGETS & HWY_AVX3_DL
  const bool dot_products = (supported & HWY_AVX3_DL) && has_bf16_dot_products();
  if (dot_products && has_amx()) found.push_back(N_AVX3_DL::Describe("amx_bf16", Arithmetic::bf16_amx));
#endif
#if HWY_TARGETS & HWY_AVX3
  if (has_avx512()) found.push_back(N_AVX3::Describe("avx512"));
#endif
#if HWY_TARGETS & HWY_AVX3_DL
  if (dot_products)
    found.insert(has_fast_bf16_dot_products() ? found.begin() : found.end(),
                 N_AVX3_DL::Describe("avx512_bf16", Arithmetic::bf16));
#endif
#if HWY_TARGETS & HWY_AVX2
  if (has_avx2()) found.push_back(N_AVX2::Describe("avx2"));
#endif
#if HWY_TARGETS & HWY_SSE4
  if (has_sse4()) found.push_back(N_SSE4::Describe("sse4"));
#endif
#elif HWY_ARCH_ARM && HWY_STATIC_TARGET == HWY_NEON_WITHOUT_AES
  found.push_back(N_NEON_WITHOUT_AES::Describe("neon"));
#elif HWY_TARGETS & HWY_NEON
  if (supported & HWY_NEON) found.push_back(N_NEON::Describe("neon"));
#endif
    // Instructions that the compiler was told to assume are always there: SSE2 or, where that is nothing in
    // particular, portable code.
#if HWY_ARCH_X86 && HWY_STATIC_TARGET == HWY_SSE2
  found.push_back(N_SSE2::Describe("sse2"));
#elif HWY_STATIC_TARGET == HWY_EMU128
  found.push_back(N_EMU128::Describe("portable"));
#endif
  return found;
}

}  // namespace

const std::vector<const Target*>& targets() {
  static const std::vector<Target> all = FindTargets();
  static const std::vector<const Target*> pointers = [] {
    std::vector<const Target*> list;
    for (const Target& target : all) list.push_back(&target);
    return list;
  }();
  return pointers;
}

}  // namespace kineograph::engine::cpu
#endif

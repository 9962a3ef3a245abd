// The instructions of src/engine/cuda/instructions.h as loops, found in its place by the order of include folders, so
// that any machine tests the kernels that run on a device. A block's threads are fibers; what a warp does together is
// done by the last of its lanes to arrive. What a kernel may not rely on is wrong here, always:
// - shared and device memory start as no numbers;
// - an asynchronous copy arrives when its thread waits for it, and until then its target is no number;
// - a warp runs ahead until it waits for another, so that a missing barrier shows;
// - an address that a device refuses, an instruction that not all lanes of a warp reach, a barrier that not all threads
//   reach and a grid that is too large end the program.
#pragma once

#include <setjmp.h>  // NOLINT(modernize-deprecated-headers): _setjmp is POSIX's
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/half.h"
#include "engine/cuda/runtime.h"

#define KINEOGRAPH_DEVICE inline
#define KINEOGRAPH_KERNEL(threads) void
#define KINEOGRAPH_UNROLL
#define KINEOGRAPH_SHARED(name) \
  unsigned char* const name = ::kineograph::engine::cuda::emulated::state.block.shared.data()

namespace kineograph::engine::cuda {

using Bf16 = bf16;
using F16 = f16;

namespace emulated {

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "emulated device: %s\n", why);
  std::abort();
}
inline void check_aligned(const void* p, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) fail("an address that is not aligned to its access");
}

enum class Meeting { product, matrices, shuffle, barrier };

constexpr std::size_t kStack = 64 * 1024;
struct Thread {
  ucontext_t context{};
  jmp_buf place{};
  bool started = false, done = true;
  std::unique_ptr<char[]> stack{new char[kStack]};
  using Copies = std::vector<std::pair<void*, const void*>>;  ///< to, from; zeros where null
  std::vector<Copies> groups;                                 ///< committed, oldest first
  Copies open;
};

/// What the lanes bring to a meeting, and what they take from it. A lane may bring things to the next before another
/// has taken its part of this one, so results have two places in turn.
struct Warp {
  int arrived = 0;
  unsigned meetings = 0;
  Meeting meeting{};
  std::uint32_t a[32][4], b[32][2];
  const void* rows[32];
  float values[32];
  float product[2][16][8];
  std::uint32_t matrices[2][32][4];
  float shuffled[2][32];
};

struct Block {
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  int threads = 0, arrived = 0, left = 0;
  unsigned barriers = 0;
  std::int64_t x = 0;
  int y = 0;
};

/// Of the one block that a thread of the program emulates.
struct State {
  Block block;
  std::vector<std::unique_ptr<Thread>> fibers;
  int current = 0;
  std::int64_t steps = 0;  ///< arrivals, meetings and ends: what shows that there is progress
  jmp_buf scheduler{};
  const std::function<void()>* body = nullptr;
};
inline thread_local State state;

inline Thread& thread() { return *state.fibers[static_cast<std::size_t>(state.current)]; }
inline Warp& warp() { return state.block.warps[static_cast<std::size_t>(state.current / 32)]; }
/// Lets another thread run.
inline void yield() {
  if (_setjmp(thread().place) == 0) _longjmp(state.scheduler, 1);
}

/// Where fibers begin. They are kept for the next block.
inline void live() {
  for (;;) {
    (*state.body)();
    thread().done = true;
    --state.block.left;
    ++state.steps;
    yield();
  }
}

/// Runs a fiber until it yields.
inline void resume(int index) {
  state.current = index;
  Thread& t = thread();
  if (_setjmp(state.scheduler) != 0) return;
  if (t.started) _longjmp(t.place, 1);
  t.started = true;
  getcontext(&t.context);
  t.context.uc_stack.ss_sp = t.stack.get();
  t.context.uc_stack.ss_size = kStack;
  makecontext(&t.context, live, 0);
  setcontext(&t.context);
}
inline void run_block(int threads, std::int64_t x, int y, std::size_t shared, const std::function<void()>& body) {
  Block& block = state.block;
  state.body = &body;
  block.warps.resize(static_cast<std::size_t>(threads / 32));
  for (Warp& w : block.warps) w.arrived = 0;
  block.shared.assign(shared + 1, 0xff);
  block.threads = block.left = threads;
  block.arrived = 0, block.x = x, block.y = y;
  while (state.fibers.size() < static_cast<std::size_t>(threads)) state.fibers.push_back(std::make_unique<Thread>());
  for (int i = 0; i < threads; ++i) {
    Thread& t = *state.fibers[static_cast<std::size_t>(i)];
    t.done = false;
    t.groups = {}, t.open = {};
  }
  while (block.left != 0) {
    const std::int64_t before = state.steps;
    for (int first = 0; first < threads; first += 32)
      for (std::int64_t seen = -1; seen != state.steps;) {  // a warp as far as it comes by itself
        seen = state.steps;
        for (int lane = first; lane < first + 32; ++lane)
          if (!state.fibers[static_cast<std::size_t>(lane)]->done) resume(lane);
      }
    if (state.steps == before) fail("threads wait for a barrier or an instruction that others do not reach");
  }
}

/// All lanes of a warp come here before any goes on; the last to arrive calls work(warp, place), and all get the place
/// of its results.
template <class Work>
int meet(Meeting meeting, const Work& work) {
  Warp& w = warp();
  if (w.arrived == 0) w.meeting = meeting;
  if (w.meeting != meeting) fail("lanes of a warp meet at different instructions");
  const unsigned number = w.meetings;
  ++state.steps;
  if (++w.arrived == 32) {
    work(w, number % 2);
    w.arrived = 0;
    ++w.meetings;
  }
  while (w.meetings == number) yield();
  return static_cast<int>(number % 2);
}
template <class T>
float element(std::uint32_t word, int i) {
  return to_float(T{static_cast<std::uint16_t>(word >> 16 * i)});
}

/// PTX ISA, "Matrix fragments for mma.m16n8k16": a[r] of a lane holds row g + 8 (r % 2), columns 2 t + 8 (r / 2) and
/// the next; b[r] rows 2 t + 8 r and the next of column g; d[e] row g + 8 (e / 2), column 2 t + e % 2. g = lane / 4, t
/// = lane % 4. Sums are f32, of exact products.
template <class T>
void multiply(Warp& w, unsigned place) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < 4; ++r)
      for (int i = 0; i < 2; ++i) {
        a[lane / 4 + 8 * (r % 2)][lane % 4 * 2 + 8 * (r / 2) + i] = element<T>(w.a[lane][r], i);
        if (r < 2) b[lane % 4 * 2 + 8 * r + i][lane / 4] = element<T>(w.b[lane][r], i);
      }
  std::memset(w.product[place], 0, sizeof w.product[place]);
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) w.product[place][row][column] += a[row][k] * b[k][column];
}
template <bool kTransposed>
void load_matrices(std::uint32_t (&r)[4], const void* row) {
  check_aligned(row, 16);
  const int lane = state.current % 32;
  warp().rows[lane] = row;
  const int place = meet(Meeting::matrices, [](Warp& w, unsigned to) {
    for (int i = 0; i < 4; ++i)
      for (int of = 0; of < 32; ++of) {
        const auto at = [&](int y, int x) { return static_cast<const std::uint16_t*>(w.rows[8 * i + y])[x]; };
        const int g = of / 4, t = 2 * (of % 4);
        w.matrices[to][of][i] =
            kTransposed ? at(t, g) | std::uint32_t{at(t + 1, g)} << 16 : at(g, t) | std::uint32_t{at(g, t + 1)} << 16;
      }
  });
  std::memcpy(r, warp().matrices[place][lane], sizeof r);
}

}  // namespace emulated
inline int thread_x() { return emulated::state.current; }
inline std::int64_t block_x() { return emulated::state.block.x; }
inline int block_y() { return emulated::state.block.y; }
inline void block_sync() {
  emulated::Block& block = emulated::state.block;
  const unsigned number = block.barriers;
  ++emulated::state.steps;
  if (++block.arrived == block.threads) block.arrived = 0, ++block.barriers;
  while (block.barriers == number) emulated::yield();
}
inline void warp_sync() {
  emulated::meet(emulated::Meeting::barrier, [](emulated::Warp&, unsigned) {});
}
inline float shuffle_xor(float v, int mask) {
  const int lane = thread_x() % 32;
  emulated::warp().values[lane] = v;
  const int place = emulated::meet(emulated::Meeting::shuffle, [](emulated::Warp& w, unsigned to) {
    std::memcpy(w.shuffled[to], w.values, sizeof w.values);
  });
  return emulated::warp().shuffled[place][lane ^ mask];
}
template <class T>
void mma16816(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const int lane = thread_x() % 32;
  emulated::Warp& w = emulated::warp();
  std::memcpy(w.a[lane], a, sizeof a);
  w.b[lane][0] = b0;
  w.b[lane][1] = b1;
  const int place = emulated::meet(emulated::Meeting::product, emulated::multiply<T>);
  for (int e = 0; e < 4; ++e) d[e] += w.product[place][lane / 4 + 8 * (e / 2)][lane % 4 * 2 + e % 2];
}
inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) { emulated::load_matrices<false>(r, row); }
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) { emulated::load_matrices<true>(r, row); }
inline void cp_async16(void* to, const void* from, bool valid) {
  emulated::check_aligned(to, 16);
  emulated::check_aligned(from, 16);
  std::memset(to, 0xff, 16);
  emulated::thread().open.emplace_back(to, valid ? from : nullptr);
}
inline void cp_async_commit() { emulated::thread().groups.push_back(std::exchange(emulated::thread().open, {})); }
template <int kLeft>
void cp_async_wait() {
  auto& groups = emulated::thread().groups;
  while (groups.size() > kLeft) {
    for (const auto& [to, from] : groups.front()) from ? std::memcpy(to, from, 16) : std::memset(to, 0, 16);
    groups.erase(groups.begin());
  }
}
inline float exp2_of(float x) { return std::exp2(x); }
inline float erf_of(float x) { return std::erf(x); }
inline float tanh_of(float x) { return std::tanh(x); }
inline float rsqrt_of(float x) { return 1.0f / std::sqrt(x); }
inline float infinity() { return std::numeric_limits<float>::infinity(); }
inline float max_of(float a, float b) { return std::fmax(a, b); }
inline float widen(auto v) { return to_float(v); }
template <class T>
T narrow(float v) {
  return from_float<T>(v);
}
template <class T>
std::uint32_t pack2(float low, float high) {
  return narrow<T>(low).bits | std::uint32_t{narrow<T>(high).bits} << 16;
}

struct Pair {
  float low, high;
};
inline Pair read_pair(const float* p) {
  emulated::check_aligned(p, 8);
  return {p[0], p[1]};
}
template <class T>
void write_pair(T* p, Pair v) {
  emulated::check_aligned(p, 2 * sizeof(T));
  p[0] = narrow<T>(v.low);
  p[1] = narrow<T>(v.high);
}
template <class Arguments>
void launch(void (*kernel)(Arguments), std::int64_t grid_x, std::int64_t grid_y, int threads, std::size_t shared,
            Stream, const std::remove_const_t<Arguments>& arguments) {
  if (grid_x > 0x7fffffff || grid_y > 65535 || threads > 1024 || threads % 32 != 0 || shared > 48 * 1024)
    emulated::fail("a launch beyond a device's limits");
  const std::function<void()> body = [&] { kernel(arguments); };
  for (std::int64_t y = 0; y < grid_y; ++y)
    for (std::int64_t x = 0; x < grid_x; ++x) emulated::run_block(threads, x, static_cast<int>(y), shared, body);
}

}  // namespace kineograph::engine::cuda

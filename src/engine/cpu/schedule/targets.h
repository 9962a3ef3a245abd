// The engine's code, once per instruction set.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cpu/call/call.h"
#include "engine/cpu/kernels/moments.h"

namespace kineograph::engine::cpu {

struct BackwardCall;
struct BackwardBuffers;

/// What one instruction set offers.
struct Target {
  std::string_view name;
  std::size_t lanes = 0;                       ///< N
  std::size_t max_rows = 0;                    ///< of a micro-kernel
  Arithmetic bf16 = Arithmetic::bf16_storage;  ///< what bf16 models compute in
  /// Walks one tile. `gathered`: the workspace holds its input already, since the walk before returned true. Returns
  /// whether this one leaves the input of next->next(), unless null. Indexed by Arithmetic; null for what the
  /// instruction set has no products for.
  bool (*walk[kArithmetics])(const Call&, const Tile&, bool gathered, TileSource* next, Team&, Workspace&) = {};
  /// y = linear(tokens): see ProjectTokens. Indexed like walk.
  void (*project_tokens[kArithmetics])(const PackedLinear&, const float* tokens, std::size_t count, std::size_t dim,
                                       std::uint32_t* operands, float* y) = {};
  /// Walks one tile forward and back; see backward.h.
  void (*walk_backward)(const BackwardCall&, const Tile&, Team&, Turns&, BackwardBuffers&) = nullptr;
  /// Floats of Workspace::scores that it needs a thread.
  std::size_t (*backward_scratch)(std::size_t queries, std::size_t keys) = nullptr;
  /// Moments of `count` neighbouring pixels.
  Moments (*moments)(const void* pixels, DType dtype, std::size_t count) = nullptr;
  /// GFLOP/s that products on registers reach on one thread in about `seconds`, for the peak of benchmarks.
  double (*peak_flops)(Arithmetic arithmetic, double seconds) = nullptr;
  /// Applies function `which` (see VectorFunction) to n floats; for tests.
  void (*apply)(int which, const float* in, float* out, std::size_t n) = nullptr;
};

enum VectorFunction { kExp2, kSigmoid, kTanh, kGeluErf, kGeluTanh, kSilu, kGeluSigmoid };

/// Those this machine can run, best first.
const std::vector<const Target*>& targets();

}  // namespace kineograph::engine::cpu

// The functions of the engine that are compiled once per instruction set.
#pragma once

#include <cstddef>
#include <string_view>

#include "base/moments.h"
#include "engine/cpu/call/call.h"

namespace kineograph::engine::cpu {

struct BackwardCall;
struct BackwardBuffers;
struct RowsCall;
struct Segment;
struct Tile;
struct Workspace;
class Team;
class TileSource;
class Turns;

/// One instruction set.
struct Target {
  std::string_view name;
  std::size_t lanes = 0;                       ///< N
  std::size_t max_rows = 0;                    ///< of a micro-kernel
  Arithmetic bf16 = Arithmetic::bf16_storage;  ///< of bf16 models
  /// Walks one tile. `gathered`: the workspace holds its input already, since the walk before returned true. Returns
  /// whether this one leaves the input of next->next(), unless null. Indexed by Arithmetic; null for an
  /// arithmetic that the instruction set lacks.
  bool (*walk[kArithmetics])(const Call&, const Tile&, bool gathered, TileSource* next, Team&, Workspace&) = {};
  /// Walks one tile through a segment; see spatial/rows.h. Indexed like walk.
  void (*walk_segment[kArithmetics])(const RowsCall&, const Segment&, const Tile&, Team&, Workspace&) = {};
  /// y = linear(tokens): see ProjectTokens. Indexed like walk.
  void (*project_tokens[kArithmetics])(const PackedLinear&, const float* tokens, std::size_t count, std::size_t dim,
                                       std::uint32_t* operands, float* y) = {};
  /// Walks one tile forward and back; see backward.h.
  void (*walk_backward)(const BackwardCall&, const Tile&, Team&, Turns&, BackwardBuffers&) = nullptr;
  /// Floats of Workspace::scores that it needs a thread.
  std::size_t (*backward_scratch)(std::size_t queries, std::size_t keys) = nullptr;
  /// Moments of `runs` runs of `count` neighbouring pixels, their first ones `stride` pixels apart.
  Moments (*moments)(const void* pixels, DType dtype, std::size_t count, std::size_t runs,
                     std::ptrdiff_t stride) = nullptr;
  /// GFLOP/s that products on registers reach on one thread in about `seconds`, for the peak of benchmarks.
  double (*peak_flops)(Arithmetic arithmetic, double seconds) = nullptr;
  /// Applies function `which` (see VectorFunction) to n floats; for tests.
  void (*apply)(int which, const float* in, float* out, std::size_t n) = nullptr;

  /// The arithmetic of a model that computes in `dtype`.
  Arithmetic arithmetic(DType dtype) const { return dtype == DType::bf16 ? bf16 : Arithmetic::f32; }
};

enum VectorFunction { kExp2, kSigmoid, kTanh, kGeluErf, kGeluTanh, kSilu, kGeluSigmoid, kShortExp2, kShorterExp2 };

}  // namespace kineograph::engine::cpu

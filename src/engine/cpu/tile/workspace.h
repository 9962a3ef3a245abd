// Memory that a tile is walked in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/cpu/pack/layout.h"

namespace kineograph::engine::cpu {

/// Memory of one thread, reused from tile to tile. Sizes are for the largest tile of a call.
struct Workspace {
  // Of the tile, shared by the threads that work on it.
  Buffer<float> x;                 ///< residual stream [panel][inner][2N]
  Buffer<std::uint32_t> normed;    ///< LayerNorm's output [panel][inner]; at last proj_out's operand; if the tile is
                                   ///< tall, of the thread's few panels
  Buffer<std::uint32_t> attended;  ///< the input, normalised [panel][C], of a tall tile a few panels; then attention's
                                   ///< output [panel][inner]
  Buffer<std::uint32_t> context;   ///< per-pixel conditioning [panel][D]
  Buffer<float> window;            ///< the residual stream of a window [panel][inner][2N]
  Buffer<float> averaged;          ///< the average of windows, like x
  // Of the thread.
  Buffer<float> qkv;             ///< one head [panel][3 head_dim]
  Buffer<float> scores;          ///< a few queries x all keys
  Buffer<std::uint32_t> hidden;  ///< a chunk of the feed-forward [panel][hidden_chunk]
  Buffer<float> block;           ///< sums that reach an epilogue through memory; in L1
};

/// Elements of each buffer of a Workspace.
struct WorkspaceSizes {
  std::size_t x = 0, normed = 0, attended = 0, context = 0, window = 0, averaged = 0;
  std::size_t qkv = 0, scores = 0, hidden = 0, block = 0;
  std::size_t bytes() const noexcept {
    return 4 * (x + normed + attended + context + window + averaged + qkv + scores + hidden + block);
  }
};

/// `attended_frames`: all of the shape's, or those of a window.
WorkspaceSizes workspace_sizes(const PackedModel& model, const TileShape& shape, std::size_t attended_frames,
                               std::size_t context_tokens, std::size_t context_dim);

}  // namespace kineograph::engine::cpu

// Memory that a tile is walked in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/cpu/pack/layout.h"

namespace kineograph::engine::cpu {

/// Memory of one thread, reused from tile to tile. Sizes are for the largest tile of a call.
struct Workspace {
  // Of the tile, shared by the threads that work on it.
  Buffer<float> x;                  ///< residual stream [panel][inner][2N]
  Buffer<std::uint32_t> normed;     ///< LayerNorm's output [panel][inner]; at last proj_out's operand; if the tile is
                                    ///< tall, of the thread's few panels
  Buffer<std::uint32_t> attended;   ///< the input, normalised [panel][C], of a tall tile a few panels; then attention's
                                    ///< output [panel][inner]
  Buffer<std::uint32_t> context;    ///< per-pixel conditioning [panel][D]
  Buffer<float> window;             ///< the residual stream of a window [panel][inner][2N]
  Buffer<float> averaged;           ///< the average of windows, like x
  Buffer<float> attended_average;   ///< the same of their last attention's output
  Buffer<float> clip_heads;         ///< a ClipHead for every head
  Buffer<std::uint32_t> positions;  ///< a window's, as operands whose lanes are frames
  // Of the thread.
  Buffer<float> qkv;             ///< one head [panel][3 head_dim]
  Buffer<float> scores;          ///< a few queries x all keys
  Buffer<std::uint32_t> hidden;  ///< a chunk of the feed-forward [panel][hidden_chunk]
  Buffer<float> block;           ///< sums that reach an epilogue through memory; in L1
};

/// Elements of each buffer of a Workspace.
struct WorkspaceSizes {
  std::size_t x = 0, normed = 0, attended = 0, context = 0, window = 0, averaged = 0, attended_average = 0,
              clip_heads = 0, positions = 0;
  std::size_t qkv = 0, scores = 0, hidden = 0, block = 0;
  std::size_t bytes() const noexcept {
    return 4 * (x + normed + attended + context + window + averaged + attended_average + clip_heads + positions + qkv +
                scores + hidden + block);
  }
};

/// Products of a block's first attention, whose input all windows of a clip share, for one head: q of the clip's frames
/// [panel][row][2N], k and v alike, then both of a window's positions, a position a lane. Places count floats.
struct ClipHead {
  std::size_t query_panel, kv_panel, panels, position_panels;
  std::size_t kv() const { return panels * query_panel; }
  std::size_t query_positions() const { return kv() + panels * kv_panel; }
  std::size_t kv_positions() const { return query_positions() + position_panels * query_panel; }
  std::size_t floats() const { return kv_positions() + position_panels * kv_panel; }
};
ClipHead clip_head(const PackedModel& model, const TileShape& shape, std::size_t attended_frames);

/// `attended_frames`: all of the shape's, or those of a window.
WorkspaceSizes workspace_sizes(const PackedModel& model, const TileShape& shape, std::size_t attended_frames,
                               std::size_t context_tokens, std::size_t context_dim);

}  // namespace kineograph::engine::cpu

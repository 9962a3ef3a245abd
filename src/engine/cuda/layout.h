// How a call is cut into slabs, and where a slab's values lie in the workspace.
#pragma once

#include <cstddef>

#include "engine/cuda/arguments.h"
#include "engine/engine.h"

namespace kineograph::engine::cuda {

/// Extents of a call.
struct Extents {
  std::int64_t videos = 0, frames = 0, pixels = 0, channels = 0, groups = 0;  ///< pixels of an image: H*W
  std::int64_t inner = 0, hidden = 0;                                         ///< I, columns of ff_out
  std::int64_t keys = 0;        ///< S, where there is an encoder_hidden_states that an attention reads; else 0
  bool keys_per_video = false;  ///< S rows a video, not a pixel
  bool per_frame = false;       ///< scope of the GroupNorm

  std::int64_t all_pixels() const { return videos * pixels; }
  std::int64_t rows() const { return videos * frames; }
  std::int64_t sets() const { return per_frame ? rows() : videos; }
};

/// Byte offsets into the workspace, multiples of 256; `bytes` is all of it.
struct Layout {
  std::int64_t slab_pixels = 0;
  std::size_t moments = 0, statistics = 0;  ///< (B*F, groups), (sets, groups)
  std::size_t stream = 0;                   ///< (M, I) f32: the residual stream
  std::size_t normalised = 0;               ///< (M, I) T: a LayerNorm's output, and then what is attended
  std::size_t wide = 0;     ///< (M, 3 I) q, k and v, (M, hidden), (M, C) or proj_out's (M, C) f32: one at a time
  std::size_t context = 0;  ///< (rows, 2 I) T: keys and values of encoder_hidden_states
  std::size_t bytes = 0;
};

/// As many pixels a slab as fit into `slab_bytes`, at least one.
Layout make_layout(const Extents& extents, std::size_t slab_bytes);

/// Rows of encoder_hidden_states that slab pixels [first, first + pixels) attend to: `first` row and `count`.
struct ContextRows {
  std::int64_t first = 0, count = 0;
};
ContextRows context_rows(const Extents& extents, std::int64_t first, std::int64_t pixels);

}  // namespace kineograph::engine::cuda

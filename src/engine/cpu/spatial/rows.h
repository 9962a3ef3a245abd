// One forward of Transformer2DModel or TransformerSpatioTemporalModel, as its tiles see it.
//
// A row is one image (C, H, W) of hidden_states. Its pixels meet only in self-attention, so a model is cut there into
// segments: a tile walks through a segment in cache, and at its end leaves the residual stream in memory and its keys
// and values packed for the next one. A tile is pixels of one row or several small rows, as the frames of a tile.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "engine/cpu/call/call.h"
#include "engine/cpu/pack/key_values.h"

namespace kineograph::engine::cpu {

/// A layer's attn1, attn2 or feed-forward.
struct Step {
  enum class Kind { attention, feed_forward } kind = Kind::attention;
  std::size_t layer = 0;
  std::size_t which = 0;     ///< of the attentions: 0 for attn1, 1 for attn2
  bool over_pixels = false;  ///< attends to the pixels of its row
  std::size_t turn = 0;      ///< of those that do, in turn 0 and 1: whose keys and values
};

/// The work of a tile between two meetings of pixels or frames.
struct Segment {
  enum class Begin { input, stream } begin = Begin::stream;
  enum class End {
    keys,    ///< the stream, and the keys and values of step `last`
    stream,  ///< the stream alone
    output
  } end = End::output;
  std::size_t first = 0, last = 0;  ///< steps
  bool over_frames = false;         ///< the temporal block of `layer` and its blend, instead of steps
  std::size_t layer = 0;
};

/// Tokens that rows attend to: text, or an image prompt. Rows whose tokens are equal byte by byte share them.
struct Context {
  KeyValueLayout layout;
  std::vector<std::size_t> of_row;                 ///< which distinct tokens a row has
  std::vector<Buffer<std::uint32_t>> keys_values;  ///< [layer * 2 + which]: [distinct][head][layout.size()]; or empty
  std::vector<float> scale;                        ///< an image prompt's, a layer
  bool empty() const noexcept { return of_row.empty(); }
  const std::uint32_t* head(const Step& step, std::size_t row, std::size_t heads, std::size_t head) const {
    return keys_values[step.layer * 2 + step.which].data() + (of_row[row] * heads + head) * layout.size();
  }
};

/// log2(e) times a bias. Finite biases stay finite, since a query that meets nothing but the lowest
/// number is given the mean of all values.
inline float exponent_of(float bias) {
  const float exponent = bias * 1.44269504f;
  return std::isinf(exponent) && std::isfinite(bias) ? std::copysign(std::numeric_limits<float>::max(), bias)
                                                     : exponent;
}

/// Biases of the scores of one of the two attentions, times log2(e).
struct ScoreBiases {
  TensorView view;           ///< (N, heads, Q, K); absent for none
  std::vector<float> table;  ///< [row][head][K] where all queries have the same
  std::size_t row_stride = 0, head_stride = 0;
  bool per_query() const noexcept { return view && table.empty(); }
  const float* keys(std::size_t row, std::size_t head) const {
    return table.empty() ? nullptr : table.data() + row * row_stride + head * head_stride;
  }
};

struct RowsCall {
  Call rows;   ///< every row as a video of one frame
  Call clips;  ///< TransformerSpatioTemporalModel: its temporal blocks, over the frames of videos
  std::vector<Step> steps;
  Context context;
  std::vector<Context> image_prompts;
  Context clip_context;  ///< of videos
  ScoreBiases biases[2];

  /// Rows in flight: [row - first_row].
  std::size_t first_row = 0, runs = 0;  ///< runs: of N pixels, a row
  Buffer<float> stream;                 ///< [row][run][I, padded to even][N]
  KeyValueLayout pixels;                ///< a row's own pixels as keys
  std::size_t first_key_row = 0;
  Buffer<std::uint32_t> keys_values[2];  ///< by Step::turn: [row - first_key_row][head][pixels.size()]

  std::vector<float> frame_embedding;  ///< (F, I)
  std::vector<float> spatial_share;    ///< of the blend, a row

  std::uint32_t* pixel_head(std::size_t turn, std::size_t row, std::size_t heads, std::size_t head) const {
    return const_cast<std::uint32_t*>(keys_values[turn].data()) +
           ((row - first_key_row) * heads + head) * pixels.size();
  }
};

}  // namespace kineograph::engine::cpu

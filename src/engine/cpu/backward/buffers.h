// The values of a tile of training, and the memory that they take turns in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "engine/cpu/call/call.h"
#include "engine/cpu/pack/trained.h"

namespace kineograph::engine::cpu {

/// Every value is [panel][channel][2N]; `d_value` is the loss's gradient by the value. Values of a block are of the
/// layer that the walk is at.
enum class Value : std::uint8_t {
  none,
  // Of the tile.
  image,        ///< C: GroupNorm's output
  last_output,  ///< I: the output of all blocks
  sample,       ///< C: proj_out's output
  d_sample,     ///< C
  logits,       ///< V-1
  d_logits,     ///< V-1
  normed_out,   ///< I: norm_out's output
  d_image,      ///< C
  d_x,          ///< I: by the residual stream, where the walk is
  context,      ///< D: encoder_hidden_states of every pixel
  d_context,    ///< D
  // Of a block.
  block_input,  ///< I
  x1,           ///< I: behind attn1
  x2,           ///< I: behind attn2
  normed,       ///< I: the output of norm1, norm2, norm3
  queries,      ///< I: of attn1, attn2; so are the next four
  keys,
  values,
  attended,
  d_attended,
  d_queries,
  d_keys,
  d_values,
  branch,       ///< I: an attention's or the feed-forward's output, before its gate
  d_branch,     ///< I
  d_normed,     ///< I
  projected,    ///< a chunk of ff.net.0.proj's output: values, then gates
  d_projected,  ///< the same
  hidden,       ///< a chunk of ff.net.2's input
  d_hidden,     ///< the same
};

/// Pieces of a tile's memory. Several values take turns in one.
enum class Storage : std::uint8_t {
  image,
  x1,
  x2,
  normed1,
  normed2,
  normed3,
  queries1,
  queries2,
  keys1,
  keys2,
  values1,
  values2,
  attended1,
  attended2,
  branch,
  last,
  projected,
  hidden,
  d_hidden,
  d_x,
  d_branch,
  d_normed,
  ends,  ///< C or V-1: values in front of the output, then of the input
  context,
  d_context,
  count
};
inline constexpr std::size_t kStorages = static_cast<std::size_t>(Storage::count);

/// The one table of values and their memory; `which` counts attentions or norms from 0. The input of a block has memory
/// of its own. `discrete`: norm_out reads the blocks' output on the way back, when d_normed is there already.
constexpr Storage storage_of(Value value, std::size_t which, bool discrete) {
  const auto from = [which](Storage first) { return static_cast<Storage>(static_cast<std::size_t>(first) + which); };
  switch (value) {
    case Value::image:
      return Storage::image;
    case Value::last_output:
      return discrete ? Storage::last : Storage::d_normed;
    case Value::sample:
    case Value::d_sample:
    case Value::logits:
    case Value::d_logits:
    case Value::d_image:
      return Storage::ends;
    case Value::d_x:
      return Storage::d_x;
    case Value::context:
      return Storage::context;
    case Value::d_context:
      return Storage::d_context;
    case Value::x1:
      return Storage::x1;
    case Value::x2:
      return Storage::x2;
    case Value::normed:
      return from(Storage::normed1);
    case Value::normed_out:
      return Storage::normed1;
    case Value::queries:
      return from(Storage::queries1);
    case Value::keys:
    case Value::d_keys:
      return from(Storage::keys1);
    case Value::values:
    case Value::d_values:
      return from(Storage::values1);
    case Value::attended:
      return from(Storage::attended1);
    case Value::branch:
    case Value::d_attended:
    case Value::d_queries:
      return Storage::branch;
    case Value::d_branch:
      return Storage::d_branch;
    case Value::d_normed:
      return Storage::d_normed;
    case Value::projected:
    case Value::d_projected:
      return Storage::projected;
    case Value::hidden:
      return Storage::hidden;
    case Value::d_hidden:
      return Storage::d_hidden;
    case Value::none:
    case Value::block_input:
      break;
  }
  return Storage::count;
}

/// Memory, and the value that is in it: of `layer` for a value of a block.
struct Held {
  Buffer<float> memory;
  Value value = Value::none;
  std::size_t layer = 0;
};

/// Memory of the largest tile.
struct BackwardBuffers {
  std::vector<Held> block_inputs;  ///< a layer each
  std::array<Held, kStorages> storage;
  Held transposed;        ///< a value, turned for an outer product: see TransposePanels
  Buffer<float> moments;  ///< of a norm on its way back
  Buffer<float> operand;  ///< of a product in bf16: pairs of channels [panel][channel pair][2N]
  Buffer<float> paired;   ///< of a gradient in bf16: pairs of tokens [panel][row][N]
};

/// Words between two panels of BackwardBuffers::operand and ::paired: the widest rows there are.
std::size_t operand_panel(const Call& call, const TrainedModel& trained, std::size_t lanes);

/// Floats of every buffer of a tile.
struct BufferSizes {
  std::size_t layers = 0, block_input = 0;
  std::array<std::size_t, kStorages> storage = {};
  std::size_t transposed = 0, moments = 0, operand = 0, paired = 0;

  BufferSizes(const Call& call, const TrainedModel& trained, const TileShape& shape);
  std::size_t bytes() const;
};

/// All anew, next to each other, as soon as one is too small.
void grow_all(BackwardBuffers& buffers, const BufferSizes& sizes);

}  // namespace kineograph::engine::cpu

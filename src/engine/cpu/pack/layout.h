// How the fused engine lays data out, the same for every instruction set.
//
// Lanes are tokens. A vector holds N pixels of one frame at one channel; a tile is V vectors: `runs` runs of N
// pixels, each through all F frames, vector v = frame * runs + run. Two neighbouring vectors make a panel, the unit
// a micro-kernel works on, so a buffer over K channels is
//
//   [panel][channel][2 N lanes]
//
// Weights are broadcast and activations are the vectors: gather and scatter touch whole cache lines of the (B*F, C, H,
// W) image, and LayerNorm, softmax and attention run down the lanes without a horizontal operation.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "engine/cpu/pack/memory.h"
#include "kineograph/config.h"
#include "kineograph/tensor.h"

namespace kineograph::engine::cpu {

/// Factors of the products in a GEMM. Everything else is f32 in all of them.
enum class Arithmetic : std::uint8_t {
  f32,           ///< f32 weights and activations
  bf16_storage,  ///< bf16 weights, widened on the fly, f32 activations: half the memory on any machine
  bf16,          ///< bf16 pairs through the machine's dot-product instruction
  bf16_amx,      ///< bf16 pairs through its matrix unit (AMX)
};
inline constexpr std::size_t kArithmetics = 4;

/// Whether the operands of a product are pairs of bf16 channels.
inline constexpr bool is_paired(Arithmetic a) { return a == Arithmetic::bf16 || a == Arithmetic::bf16_amx; }

inline constexpr std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }

/// Channels come in pairs, so that two rows can be one row of bf16 pairs.
inline constexpr std::size_t pad_channels(std::size_t n) { return round_up(n, 2); }

/// A register of the matrix unit: 16 rows of 16 words, which are f32 sums or bf16 pairs.
inline constexpr std::size_t kAmxRows = 16, kAmxWords = 16;
/// Rows of the largest block there: two registers of weights meet two of activations.
inline constexpr std::size_t kAmxBlockRows = 2 * kAmxRows;

/// Rows of the largest block, by those of the vectors' micro-kernel.
inline constexpr std::size_t block_rows(Arithmetic a, std::size_t vectors) {
  return a == Arithmetic::bf16_amx ? kAmxBlockRows : vectors;
}

/// y = W x + b with W (rows, cols), cut into blocks of at most max_rows rows. A block is stored [word][row]: a word is
/// one f32 weight, or the pair of bf16 weights of two neighbouring columns. Rows and columns are padded with zeros to
/// even. For the matrix unit a block is [word / 16][row][16 words], padded to whole registers, behind a register of
/// biases for every 16 rows if the layer has any.
struct PackedLinear {
  struct Block {
    std::uint32_t row;   ///< first output row
    std::uint32_t rows;  ///< even, at most the kernel's maximum
    std::size_t offset;  ///< of its first word
  };
  std::size_t rows = 0;   ///< padded; for a gated layer, values and gates together
  std::size_t cols = 0;   ///< padded
  std::size_t words = 0;  ///< of a row: cols, or cols / 2 for bf16
  std::vector<Block> blocks;
  Buffer<std::uint32_t> weights;
  Buffer<float> bias;   ///< one per row, zeros without a bias; none for the matrix unit
  bool biased = false;  ///< for the matrix unit
  bool empty() const noexcept { return blocks.empty(); }
};

/// A PackedLinear's weights in memory that another object keeps.
struct LinearView {
  std::span<const PackedLinear::Block> blocks;
  std::size_t words = 0;                   ///< of a row
  const std::uint32_t* weights = nullptr;  ///< a block's first word lies at its offset
  std::size_t size = 0;                    ///< words of all blocks
  const float* bias = nullptr;             ///< one per row; unread by the matrix unit
  bool biased = false;                     ///< for the matrix unit
  LinearView() = default;
  LinearView(const PackedLinear& linear)
      : blocks(linear.blocks),
        words(linear.words),
        weights(linear.weights.data()),
        size(linear.weights.size()),
        bias(linear.bias.data()),
        biased(linear.biased) {}
  bool empty() const noexcept { return blocks.empty(); }
};

/// Scale and shift that follow a normalisation, for every channel: n * scale[c] + shift[frame * frame_stride + c].
struct Affine {
  const float* scale = nullptr;
  const float* shift = nullptr;
  std::size_t frame_stride = 0;  ///< 0: all frames share one shift
  bool conditioned = false;      ///< they contain those of a timestep or label
};

/// The attention of one block, head by head, so that a head is computed and used at once. Queries stand apart from keys
/// and values because a conditioning may take the frames' place for the latter.
struct PackedAttention {
  std::vector<PackedLinear> query;  ///< per head, head_dim rows
  std::vector<PackedLinear> kv;     ///< per head, 2 * head_dim rows: keys, then values
  PackedLinear out;
  Buffer<float> out_bias;  ///< zeros without one
};

/// Chunks of hidden columns.
struct PackedFeedForward {
  std::vector<PackedLinear> in;   ///< values and gates interleaved block by block
  std::vector<PackedLinear> out;  ///< the same chunks as columns; the first has the bias
};

/// norm1, norm2, norm3 and norm_in.
inline constexpr std::size_t kNorms = 4;

struct PackedBlock {
  PackedAttention attn[2];
  Buffer<float> norm_scale[kNorms], norm_shift[kNorms];
  const float* positions = nullptr;  ///< (N, inner), added behind norm1 and norm2; null for none
  float norm_epsilon[kNorms] = {};
  PackedFeedForward ff;
  PackedFeedForward entry;  ///< of TransformerSpatioTemporalModel's temporal blocks: its norm is norm_in
};

/// A model packed for one instruction set and arithmetic.
struct PackedModel {
  TransformerTemporalConfig config;
  Arithmetic arithmetic = Arithmetic::f32;
  std::size_t channels = 0, inner = 0, heads = 0, head_dim = 0;
  std::size_t hidden_chunk = 0;          ///< hidden columns of a feed-forward chunk, even
  Buffer<float> norm_weight, norm_bias;  ///< the input GroupNorm's, ones and zeros when absent
  PackedLinear proj_in, proj_out;
  std::vector<PackedBlock> blocks;
  std::vector<Buffer<float>> position_tables;  ///< every one once, whatever the number of blocks that have it
  // Discrete input.
  Buffer<float> latent_emb, latent_height_emb, latent_width_emb, norm_out_scale, norm_out_shift;
  PackedLinear out;
  /// Classes of a discrete model; 0 for another one.
  std::size_t classes() const {
    return config.is_discrete() ? static_cast<std::size_t>(*config.num_vector_embeds) - 1 : 0;
  }
};

/// Extents of one tile.
struct TileShape {
  std::size_t lanes = 0;   ///< N
  std::size_t frames = 0;  ///< F
  std::size_t runs = 0;    ///< runs of N pixels
  std::size_t vectors() const noexcept { return frames * runs; }
  std::size_t panels() const noexcept { return (vectors() + 1) / 2; }
  std::size_t pixels() const noexcept { return runs * lanes; }
  std::size_t frame_of(std::size_t vector) const noexcept { return std::min(vector / runs, frames - 1); }
};

/// Panels [begin, end) of a tile.
struct PanelRange {
  std::size_t begin, end;
};

/// A tile of more panels than these is tall: a long clip. What is needed of a few panels at a time only is then kept of
/// kStepPanels, which stay in the L2 cache as a usual tile does.
inline constexpr std::size_t kTallPanels = 32, kStepPanels = 8;
inline bool is_tall(const TileShape& shape) { return shape.panels() > kTallPanels; }

/// Queries of a batch and keys of a block of AttendLongHead, whose rows stay in the L2 cache together.
inline constexpr std::size_t long_attention_block(std::size_t lanes, std::size_t head_dim) {
  const std::size_t row_bytes = 2 * head_dim * lanes * sizeof(float);  // a key's and its value's
  return std::clamp<std::size_t>(256 * 1024 / row_bytes / 16 * 16, 16, 64);
}
/// Whether all keys of a head and their values are more than stays there.
inline constexpr bool attends_in_blocks(std::size_t lanes, std::size_t head_dim, std::size_t keys) {
  return keys * 2 * head_dim * lanes * sizeof(float) > 640 * 1024;
}
/// Floats of AttendLongHead's memory, which has the scores of at most four queries at a time.
inline constexpr std::size_t long_attention_floats(std::size_t lanes, std::size_t head_dim) {
  return long_attention_block(lanes, head_dim) * lanes * (head_dim + 2 + 4);
}

/// A panel of 32 lanes reuses each broadcast weight over 16 vectors or so before the next one is needed; fewer vectors
/// and the weights' way through the caches shows, many more and the tile leaves the L2 cache.
inline TileShape choose_tile(std::size_t lanes, std::size_t frames, std::size_t pixels, std::size_t vectors = 16) {
  std::size_t runs = std::max<std::size_t>(1, vectors / frames);
  runs = std::min(runs, std::max<std::size_t>(1, (pixels + lanes - 1) / lanes));
  // An odd number of vectors would leave half a panel idle, which is little of a long clip.
  if (frames < vectors * 2 && frames % 2 == 1 && runs % 2 == 1 && pixels > runs * lanes) ++runs;
  return {lanes, frames, runs};
}

}  // namespace kineograph::engine::cpu

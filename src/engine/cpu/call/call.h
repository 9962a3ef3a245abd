// One forward call, as the tiles see it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/assert.h"
#include "engine/cpu/pack/layout.h"
#include "engine/engine.h"

namespace kineograph::engine::cpu {

/// The caller's (B*F, C, H, W) memory; strides count elements.
struct Image {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t stride_n = 0, stride_c = 0, stride_h = 0, stride_w = 0;
  explicit operator bool() const noexcept { return data != nullptr; }
};

/// Scales, shifts and gates of one block for one video.
struct Modulation {
  Affine norm[kNorms];
  const float* gate_attn1 = nullptr;  ///< I factors of attn1's output, padded with zero to even, or null for 1
  const float* gate_ff = nullptr;     ///< I factors of ff's output, padded alike, or null for 1
};

/// Keys and values of a conditioning that all pixels of a video share, for one attention of one video: per head, keys
/// (S, head_dim) as a linear map of queries to scores, values (head_dim, S) as one of probabilities to outputs.
struct SharedContext {
  std::vector<PackedLinear> keys, values;
};

/// encoder_hidden_states, a row a pixel (B*H*W, S, D) or a row a video (B, S, D); strides count elements.
struct ContextTokens {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  bool per_video = false;
  std::int64_t stride_row = 0, stride_token = 0, stride_channel = 0;
};

/// One call, made by make_call (call/make.h) and const from then on.
struct Call {
  const PackedModel* model = nullptr;
  std::size_t videos = 0, frames = 0, height = 0, width = 0;
  std::size_t pixels = 0;                     ///< H * W
  std::size_t first_row = 0, total_rows = 0;  ///< as in Inputs
  std::size_t attended_frames = 0;            ///< F, or the frames of a window
  Image input, output;                        ///< output: of a forward; absent on the way back
  const Inputs* inputs = nullptr;

  /// (x - mean[c]) * scale[c] + shift[c] is the input GroupNorm, on the way back without its weight and bias; a set of
  /// C values a video, or a frame.
  const float* group_mean = nullptr;
  const float* group_scale = nullptr;
  const float* group_shift = nullptr;
  bool group_set_per_frame = false;

  /// [layer * videos + video]
  std::vector<Modulation> modulations;

  std::size_t context_tokens = 0;  ///< S; 0: attn2 attends to the frames
  std::size_t context_dim = 0;     ///< D
  ContextTokens context;
  /// [layer * videos + video] in a forward with a row a video
  std::vector<SharedContext> shared_context;

  /// Two a layer, null for the default; empty where all are.
  std::vector<AttentionProcessor*> processors;

  /// A tile's pixels may belong to several videos: nothing depends on the video but GroupNorm's set.
  bool tiles_may_span_videos = false;

  const Modulation& modulation(std::size_t layer, std::size_t video) const {
    KINEOGRAPH_ASSERT(layer * videos + video < modulations.size());
    return modulations[layer * videos + video];
  }
  /// Sets of GroupNorm's values.
  std::size_t group_sets() const { return videos * (group_set_per_frame ? frames : 1); }
  /// As Inputs::picture_rows and Inputs::place.
  std::size_t picture_rows() const { return total_rows != 0 ? total_rows : height; }
  std::size_t place(std::size_t video, std::size_t pixel) const {
    return (video * picture_rows() + first_row) * width + pixel;
  }
  /// Pixels that are cut into tiles as one row of them.
  std::size_t segment_pixels() const { return tiles_may_span_videos ? videos * pixels : pixels; }
};

}  // namespace kineograph::engine::cpu

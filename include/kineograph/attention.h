// Attention processors: replace or watch any attention of the model.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kineograph/export.h"
#include "kineograph/tensor.h"

namespace kineograph {

/// diffusers' cross_attention_kwargs: handed to every attention's processor.
using CrossAttentionKwargs = std::map<std::string, std::variant<bool, std::int64_t, double, std::string, TensorView>>;

/// One call of an attention for a run of sequences. A sequence is one pixel of one video through all frames, or through
/// the L frames of one of the windows of ForwardOptions::context: read L for F below then.
struct AttentionCall {
  std::string_view name;         ///< "transformer_blocks.0.attn1"
  std::int64_t layer = 0;        ///< index of the block
  std::int64_t attention = 1;    ///< 1 or 2: attn1 or attn2
  std::int64_t video = 0;        ///< index b of the video
  std::int64_t num_videos = 1;   ///< B
  std::int64_t first_pixel = 0;  ///< pixel (h * W + w) of the first sequence
  std::int64_t num_pixels = 1;   ///< H * W
  std::int64_t window = 0;       ///< index of the window
  std::int64_t num_windows = 1;  ///< 1 without windows
  double scale = 1.0;            ///< 1 / sqrt(head_dim), not yet applied to query
  TensorView query;              ///< (sequences, heads, F, head_dim)
  TensorView key;                ///< (sequences, heads, S, head_dim); S = F for self-attention
  TensorView value;              ///< (sequences, heads, S, head_dim)
  MutableTensorView output;      ///< (sequences, heads, F, head_dim), to be written
  const CrossAttentionKwargs* cross_attention_kwargs = nullptr;  ///< never null during a call
  /// Which forward it belongs to: forwards of one process are numbered in the order they start in, from 1.
  std::uint64_t forward = 0;
};

/// Replaces the core of one attention: softmax(query * key^T * scale) * value. The projections stay the model's.
/// Calls may come from several threads at once, in any order of pixels. A processor may throw: the other threads stop
/// at their next tile, the exception is thrown by forward, whose output is then undefined, and the model is as before.
/// It may call any model's forward or backward, its own model's too.
class KINEOGRAPH_API AttentionProcessor {
 public:
  virtual ~AttentionProcessor() = default;
  /// Writes call.output. Views may be f32 or f64 (all four the same) and strided.
  virtual void operator()(const AttentionCall& call) = 0;
  /// Whether this processor understands a key of cross_attention_kwargs; the model warns of keys nobody understands.
  virtual bool accepts(std::string_view /*key*/) const { return false; }
};

/// The default computation, as a processor.
class KINEOGRAPH_API DefaultAttentionProcessor : public AttentionProcessor {
 public:
  void operator()(const AttentionCall& call) override;
};

/// Computes the default attention and keeps the probabilities of the forward that started last. Any thread may read or
/// clear them at any time: while that forward runs, pixels it has not come to yet are 0.
class KINEOGRAPH_API AttentionRecorder : public AttentionProcessor {
 public:
  void operator()(const AttentionCall& call) override;

  /// Names seen so far, sorted.
  std::vector<std::string> names() const;
  /// Probabilities of one attention as f32 (B, H*W, heads, F, S); in windows (B, H*W, heads, windows * L, S), a window
  /// after the other. An empty tensor for a name not seen.
  Tensor probabilities(std::string_view name) const;
  /// Forgets all probabilities.
  void clear();

 private:
  struct Map {
    std::uint64_t forward = 0;
    Tensor probabilities;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Map, std::less<>> maps_;
};

/// Which processor an attention has, by its name; attentions not named have the default.
using AttentionProcessors = std::map<std::string, std::shared_ptr<AttentionProcessor>, std::less<>>;

}  // namespace kineograph

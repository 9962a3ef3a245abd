// A run of pixels on its way through the layers, in double from the first operation to the last.
#pragma once

#include <optional>
#include <vector>

#include "engine/conditioning.h"
#include "engine/dropout.h"
#include "engine/engine.h"
#include "engine/reference/layers.h"

namespace kineograph::engine::reference {

/// Pixels [first, first + count) of one video, in all its frames or those of a window.
struct Run {
  // No member may be left out: a run of no frames would compute nothing, in silence.
  Run(std::int64_t video_in, std::int64_t first_in, std::int64_t count_in, std::int64_t frames_in)
      : video(video_in), first(first_in), count(count_in), frames(frames_in) {}

  std::int64_t video, first, count, frames;
  std::int64_t window = 0;  ///< index
};

/// Values of one attention that its backward needs. T = pixels * F tokens, K keys' tokens.
struct AttentionTape {
  Array context;   ///< (K, D) the input of to_k and to_v; empty: the tokens themselves
  Array q, k, v;   ///< (T, I), (K, I), (K, I)
  Array attended;  ///< (T, I), before to_out
  Array y;         ///< (T, I), behind to_out and dropout
};

/// Values of one block that its backward needs.
struct BlockTape {
  Array x0, n1;  ///< (T, I): the block's input, and it normalised
  AttentionTape attn1;
  Array x1, n2;  ///< behind attn1
  AttentionTape attn2;
  Array x2, n3;     ///< behind attn2
  Array projected;  ///< (T, P) behind ff.net.0.proj
  Array hidden;     ///< (T, 4I) behind the activation and dropout
  Array y;          ///< (T, I) behind ff.net.2
};

/// One call: the model's weights, its inputs, and what is computed once for all pixels.
class Passage {
 public:
  Passage(const TransformerConfig& config, GroupNormScope scope, const Layers& layers, const Inputs& inputs,
          const Conditioning& conditioning);

  /// GroupNorm's statistics: (B, groups) over (C/groups, F, H, W), or (B*F, groups) over (C/groups, H, W).
  void take_statistics(int threads);
  /// Of row b*F+f and channel c.
  const MeanVariance& statistics(std::int64_t row, std::int64_t channel) const;

  /// The input -> x (T, I). Continuous: `normalised` gets GroupNorm's output (T, C).
  Array enter(const Run& run, Array* normalised = nullptr) const;
  /// One BasicTransformerBlock on x (T, I), in place.
  void block(std::size_t layer, const Run& run, Array& x, BlockTape* tape = nullptr) const;
  /// x -> the output's memory.
  void leave(const Run& run, const Array& x, const MutableTensorView& output) const;
  /// Discrete: x -> log-probabilities (T, V-1); `normalised` gets norm_out's output (T, I).
  Array classify(const Run& run, const Array& x, Array* normalised = nullptr) const;

  std::optional<Dropout> dropout(std::size_t layer, DropoutSite site) const;
  /// x (T, width) *= the masks
  void drop(const std::optional<Dropout>& dropout, const Run& run, std::size_t width, Array& x) const;

  std::size_t tokens(const Run& run) const { return static_cast<std::size_t>(run.count * run.frames); }
  double attention_scale() const;
  /// Of element (row, channel, pixel) in a (B*F, C, H, W) view.
  std::int64_t offset(const TensorView& view, std::int64_t row, std::int64_t channel, std::int64_t pixel) const {
    return row * view.strides()[0] + channel * view.strides()[1] + pixel / inputs.width * view.strides()[2] +
           pixel % inputs.width * view.strides()[3];
  }

  const TransformerConfig& config;
  const Layers& layers;
  const Inputs& inputs;
  const Conditioning& conditioning;
  GroupNormScope scope;
  std::size_t inner, heads, head_dim;

 private:
  Array normalise(const NormLayer& norm, const Array& x, double epsilon, const Array& scale, const Array& shift) const;
  void attentions(std::size_t layer, const Run& run, Array& x, BlockTape& tape) const;
  Array attentions_in_windows(std::size_t layer, const Run& run, const Array& x) const;
  void feed_forward(std::size_t layer, const Run& run, Array& x, BlockTape& tape) const;
  void add_positions(Array& n, const Array& pe, const Run& run) const;
  Array attention(std::size_t layer, int which, const Array& n, const Run& run, AttentionTape& tape) const;
  Array context_tokens(const Run& run) const;
  void add_image_prompts(std::size_t layer, const Run& run, AttentionTape& tape) const;
  void process(AttentionProcessor& processor, std::size_t layer, int which, const Run& run, std::size_t keys,
               bool shared, AttentionTape& tape) const;

  std::vector<MeanVariance> statistics_;
};

double read(const TensorView& view, std::int64_t offset);
void write(const MutableTensorView& view, std::int64_t offset, double value);

/// Pixels that go through the layers together; only bounds memory.
inline constexpr std::int64_t kRunPixels = 16;

/// The runs of a call in order.
class Runs {
 public:
  explicit Runs(const Inputs& inputs)
      : pixels_(inputs.height * inputs.width),
        videos_(inputs.num_videos),
        frames_(inputs.num_frames),
        each_((pixels_ + kRunPixels - 1) / kRunPixels) {}
  std::int64_t size() const { return videos_ * each_; }
  Run operator[](std::int64_t i) const {
    const std::int64_t first = i % each_ * kRunPixels;
    return {i / each_, first, std::min(kRunPixels, pixels_ - first), frames_};
  }

 private:
  std::int64_t pixels_, videos_, frames_, each_;
};

}  // namespace kineograph::engine::reference

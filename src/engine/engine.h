// The interface that every engine implements, and the weights it is given.
//
// The model resolves names, checks arguments and widths; an engine may rely on everything it receives being consistent.
// Shapes below: B videos, F frames, N = B*F rows, C channels, H x W pixels, I inner width, D width of the conditioning.
// For Transformer2DModel every row is a video of one frame: B = N, F = 1.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/threads.h"
#include "engine/context_windows.h"
#include "kineograph/attention.h"
#include "kineograph/config.h"
#include "kineograph/executor.h"
#include "kineograph/tensor.h"

namespace kineograph::engine {

/// y = x W^T + b. weight (N, K); bias (N) or absent.
template <class View>
struct LinearOf {
  View weight, bias;
};

/// weight and bias (width), both absent for a norm without affine.
template <class View>
struct NormOf {
  View weight, bias;
};

/// norm1 or norm2 when conditioned. AdaLayerNorm: emb (N, I) and linear (2I, I). AdaLayerNormZero: the timestep and
/// label embedders and linear (6I, I). Absent members for a plain norm.
template <class View>
struct AdaNormOf {
  View emb;                                             // AdaLayerNorm's emb.weight (N, I)
  LinearOf<View> timestep_linear_1, timestep_linear_2;  // (I, 256), (I, I)
  View class_table;                                     // (N+1, I)
  LinearOf<View> linear;
};

template <class View>
struct AttentionOf {
  LinearOf<View> to_q, to_k, to_v, to_out;
  // Transformer2DModel's attn2: one each per IP-Adapter, (I, D).
  std::vector<LinearOf<View>> to_k_ip = {};
  std::vector<LinearOf<View>> to_v_ip = {};
};

template <class View>
struct BlockOf {
  NormOf<View> norm1, norm2, norm3;
  AdaNormOf<View> ada_norm1, ada_norm2;
  AttentionOf<View> attn1, attn2;  // attn2 absent when the configuration has none
  LinearOf<View> ff_in, ff_out;    // ff.net.0.proj, ff.net.2
  View pe;                         // (1, N, I) or absent
};

/// TransformerSpatioTemporalModel's block over frames: x += ff_in(norm_in(x)), then as any block.
template <class View>
struct TemporalBlockOf : BlockOf<View> {
  NormOf<View> norm_in;
  LinearOf<View> first_ff_in, first_ff_out;  // ff_in.net.0.proj, ff_in.net.2
};

template <class View>
struct WeightsOf {
  // Continuous input.
  NormOf<View> norm;
  LinearOf<View> proj_in, proj_out;
  std::vector<BlockOf<View>> blocks;
  // Discrete input.
  View latent_emb, latent_height_emb, latent_width_emb;  // (V, I), (s, I), (s, I)
  NormOf<View> norm_out;
  LinearOf<View> out;  // (V-1, I)
  // TransformerSpatioTemporalModel: as many temporal blocks as blocks.
  std::vector<TemporalBlockOf<View>> temporal_blocks;
  LinearOf<View> time_pos_embed_1, time_pos_embed_2;  // (4C, C), (C, 4C)
  View mix_factor;                                    // (1)
};

using Linear = LinearOf<TensorView>;
using Norm = NormOf<TensorView>;
using AdaNorm = AdaNormOf<TensorView>;
using Attention = AttentionOf<TensorView>;
using Block = BlockOf<TensorView>;
using TemporalBlock = TemporalBlockOf<TensorView>;
using Weights = WeightsOf<TensorView>;
/// Memory of the weights' gradients: contiguous f32; absent for those that are not wanted.
using WeightGradients = WeightsOf<MutableTensorView>;

/// visit(linear) for every layer that tokens are multiplied with.
template <class View, class Visit>
void each_linear(const WeightsOf<View>& weights, Visit&& visit) {
  for (const LinearOf<View>* linear : {&weights.proj_in, &weights.proj_out, &weights.out}) visit(*linear);
  const auto visit_block = [&](const BlockOf<View>& block) {
    for (const AttentionOf<View>* attention : {&block.attn1, &block.attn2}) {
      for (const LinearOf<View>* linear : {&attention->to_q, &attention->to_k, &attention->to_v, &attention->to_out})
        visit(*linear);
      for (const auto* adapters : {&attention->to_k_ip, &attention->to_v_ip})
        for (const LinearOf<View>& linear : *adapters) visit(linear);
    }
    visit(block.ff_in);
    visit(block.ff_out);
  };
  for (const BlockOf<View>& block : weights.blocks) visit_block(block);
  for (const TemporalBlockOf<View>& block : weights.temporal_blocks) {
    visit(block.first_ff_in);
    visit(block.first_ff_out);
    visit_block(block);
  }
}

/// The images of one IP-Adapter: attn2 of every row adds scale * attention(q, to_k_ip(x), to_v_ip(x)) in front of
/// to_out.
struct ImagePrompt {
  TensorView hidden_states;   ///< (E, T, D), rows shared as encoder_hidden_states' are
  std::vector<double> scale;  ///< one per layer
};

class Progress;
class Ranks;

/// A checked call. Views are of the caller's memory, or of `made`.
struct Inputs {
  std::int64_t num_videos = 0, num_frames = 0, channels = 0, height = 0, width = 0;
  /// (B*F, C, H, W) f32/f16/bf16 with strides, or i64 (B*F, H*W) for discrete input.
  TensorView hidden_states;
  /// TransformerTemporalModel: (B*H*W, S, D) or (B, S, D). The others: (E, S, D), E a divisor of N: row n of
  /// hidden_states attends to row n*E/N, and the temporal blocks to that of the video's first frame, b*F*E/N.
  /// Absent: attn2 attends to its own tokens.
  TensorView encoder_hidden_states;
  bool encoder_per_video = false;  ///< TransformerTemporalModel: (B, S, D)
  /// Transformer2DModel: biases of the scores of attn1 and of attn2 in front of the softmax, as
  /// (N, heads, Q, K) with Q = H*W queries and K keys, f32/f16/bf16/f64; extents of which all are alike have stride 0.
  /// Scores of -inf get no weight; a query all of whose scores are -inf gets zeros.
  TensorView attention_bias, encoder_attention_bias;
  /// Transformer2DModel: one per IP-Adapter, or empty: none.
  std::vector<ImagePrompt> image_prompts;
  /// TransformerSpatioTemporalModel: whether a row is an image by itself, whose blend is its spatial block's. (N).
  std::vector<bool> image_only;
  /// One per video; empty where the configuration is not conditioned on it.
  std::vector<double> timestep;
  std::vector<std::int64_t> class_labels;
  /// TransformerTemporalModel: the windows that attentions run in; empty for one of all frames. Never with dropout.
  ContextWindows context;
  /// One per attention in order (layer 0 attn1, layer 0 attn2, layer 1 attn1, ...); null for the default. Empty: all
  /// default.
  std::vector<AttentionProcessor*> processors;
  const CrossAttentionKwargs* cross_attention_kwargs = nullptr;
  /// Dropout is drawn from it (see engine/dropout.h) in training; absent in evaluation.
  std::optional<std::uint64_t> training_seed;
  int num_threads = 0;
  Executor* executor = nullptr;  ///< threads to work on; null: the library's own
  std::uint64_t forward = 0;     ///< AttentionCall::forward
  /// Told of every tile, which may throw Cancelled; null where the caller does not want to know.
  Progress* progress = nullptr;
  /// What the processes that share the pictures exchange; null where all rows are here.
  Ranks* ranks = nullptr;
  std::int64_t first_row = 0;   ///< of the whole picture: hidden_states' first row of pixels
  std::int64_t total_rows = 0;  ///< of the whole picture; 0: height
  /// Copies that the model made of the caller's arguments, where an engine cannot read them as they are.
  std::vector<Tensor> made;

  /// Rows of pixels of the whole picture.
  std::int64_t picture_rows() const { return total_rows != 0 ? total_rows : height; }
  /// Number of a pixel of hidden_states among those of all videos' whole pictures.
  std::int64_t place(std::int64_t video, std::int64_t pixel) const {
    return (video * picture_rows() + first_row) * width + pixel;
  }
};

/// Threads that a call asks for.
inline int threads_of(const Inputs& inputs) {
  if (inputs.executor == nullptr) return thread_count(inputs.num_threads);
  const int most = std::max(1, inputs.executor->concurrency());
  return inputs.num_threads == 0 ? most : std::min(inputs.num_threads, most);
}

/// Results of a backward call; absent views are not wanted. Values there before are overwritten.
struct Gradients {
  MutableTensorView hidden_states;          // as Inputs::hidden_states, any strides; absent for discrete input
  MutableTensorView encoder_hidden_states;  // as Inputs::encoder_hidden_states, any strides
  WeightGradients weights;                  // blocks: one per layer
};

/// A model made ready for one engine. Immutable; forward may be called from any number of threads at once.
class Plan {
 public:
  virtual ~Plan() = default;
  /// output: (B*F, C, H, W) in f32/f16/bf16 with strides, possibly hidden_states' own memory; discrete: f32
  /// (B*F, V-1, H*W).
  virtual void forward(const Inputs& inputs, const MutableTensorView& output) const = 0;
  /// The gradients of a loss whose gradient by forward's output is `d_output`, of its shape in f32/f16/bf16 with
  /// strides. The forward is computed anew from `inputs`. No processors, no windows. TransformerTemporalModel only.
  virtual void backward(const Inputs& inputs, const TensorView& d_output, const Gradients& gradients) const = 0;
  virtual std::size_t workspace_bytes(const Inputs& inputs) const = 0;
};

/// diffusers' name of an attention of a layer, "transformer_blocks.0.attn1" for `attention` 1.
inline std::string attention_name(std::size_t layer, std::size_t attention) {
  return "transformer_blocks." + std::to_string(layer) + ".attn" + std::to_string(attention);
}

struct PrepareOptions {
  DType compute_dtype = DType::f32;  // one of the engine's
  std::string isa;                   // empty: the best one
  /// Of ModelOptions; null for the library's own.
  Executor* executor = nullptr;
  std::pmr::memory_resource* memory = nullptr;
};

/// The instruction set and the arithmetic that a model runs with.
struct Choice {
  std::string_view isa;
  DType compute_dtype = DType::f32;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const noexcept = 0;
  /// Best first; never empty for an engine that can run here.
  virtual std::vector<std::string> instruction_sets() const = 0;
  /// What inputs of matrix products can be rounded to.
  virtual std::vector<DType> compute_dtypes() const { return {DType::f32, DType::bf16}; }
  /// GFLOP/s that multiply-adds on registers reach on `threads` threads at once; 0 for an engine without such a limit.
  virtual double peak_gflops(const std::string& /*isa*/, DType /*compute_dtype*/, int /*threads*/) const { return 0.0; }
  /// The choice that prepare would make, without its work; absent for a model that the engine does not run. Throws
  /// ArgumentError for an instruction set that it does not know.
  virtual std::optional<Choice> choose(const ModelConfig& config, const Weights& weights,
                                       const PrepareOptions& options) const = 0;
  /// Of a model that it runs. The weights' memory outlives the plan; an engine that packs copies of its own lets go of
  /// it.
  virtual std::unique_ptr<const Plan> prepare(const ModelConfig& config, const Weights& weights,
                                              const PrepareOptions& options) const = 0;
};

/// Every engine that is built and can run here, best first; cuda last: a model in the host's memory is for it to take
/// by name only.
const std::vector<const Engine*>& engines();
const Engine& reference_engine();
/// Null where the fused engine is not built.
const Engine* cpu_engine();
/// Null where the CUDA engine is not built, or there is no device that its kernels run on.
const Engine* cuda_engine();
/// Why cuda_engine() is null, as the end of a sentence.
std::string why_no_cuda();

}  // namespace kineograph::engine

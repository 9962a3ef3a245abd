// TransformerTemporalModel, Transformer2DModel and TransformerSpatioTemporalModel: load, run, save.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kineograph/attention.h"
#include "kineograph/communicator.h"
#include "kineograph/config.h"
#include "kineograph/context.h"
#include "kineograph/error.h"
#include "kineograph/executor.h"
#include "kineograph/export.h"
#include "kineograph/positions.h"
#include "kineograph/tensor.h"

namespace kineograph {

/// Result of forward, as in diffusers.
struct TransformerTemporalModelOutput {
  /// (B*F, C, H, W) in the dtype of hidden_states; for discrete latents (B*F, V-1, sample_size^2), f32.
  Tensor sample;
};

/// Told how far a call is, from 0 to 1, never less than before; returns whether to go on. It is asked when the work
/// starts, then about once a tile (milliseconds of work; the reference engine asks more often), and last with 1, on the
/// calling thread, when all is written. In between any thread at work asks, never two at once. false ends the call:
/// every thread stops at its next tile, and Cancelled is thrown. An exception of the handler's ends it too, and is
/// thrown on. After either, the outputs are undefined and the model is as before. It may call any model.
using ProgressHandler = std::function<bool(double)>;

/// How a model is made ready.
struct ModelOptions {
  /// "auto", or the name of an engine (see engines()).
  std::string engine = "auto";
  /// Dtype that inputs of matrix products are rounded to: f32 or bf16, on engine cuda f16 or bf16; nullopt follows the
  /// checkpoint (f16 files compute in f32 on the other engines; engine cuda has no f32).
  std::optional<DType> compute_dtype = {};
  /// Overrides the configuration's group_norm_scope.
  std::optional<GroupNormScope> group_norm_scope = {};
  /// Rows of the position tables, at least as many as there are, for clips of more frames than the model was trained
  /// with; nullopt keeps the configuration's, past which frames are an error. TransformerTemporalModel only.
  std::optional<std::int64_t> num_positional_embeddings = {};
  /// The source of further rows.
  PositionExtension position_extension = PositionExtension::formula;
  /// Instruction set to force ("avx2", "avx512", ...); empty chooses the best one. See instruction_sets().
  std::string isa = {};
  /// File variant of from_pretrained, such as "fp16"; empty for none.
  std::string variant = {};
  /// Of config.json.
  UnknownKeys unknown_keys = UnknownKeys::refuse;
  /// Reads all weights into memory of the model's own. Otherwise they stay mapped: the file must then be replaced by a
  /// rename and never written to or cut off in place while the model lives. A forward never reads the file; the first
  /// backward, parameters() and save_pretrained do, and throw IoError if it has changed.
  bool copy_weights = false;
  /// Called while the model is opened.
  WarningHandler on_warning = {};
  /// Threads that weights are packed on, and that calls without an executor of their own use; null for the library's.
  /// Outlives the model and its copies.
  Executor* executor = nullptr;
  /// Memory of packed weights and of the values that tiles are walked in, of the engine cpu: all that it keeps but
  /// small tables. Null for operator new. Used by several threads at once, also after a call; what it throws ends the
  /// call. Outlives the model and its copies.
  std::pmr::memory_resource* memory = nullptr;
};

/// The arguments of diffusers' forward after hidden_states. Views are read during the call only.
struct ForwardOptions {
  /// F. hidden_states has B*F rows.
  std::int64_t num_frames = 1;
  /// (B*H*W, S, D), a row per pixel as in diffusers, or (B, S, D), a row per video.
  TensorView encoder_hidden_states = {};
  /// One value per video, (B), or one for all, () or (1): integers for ada_norm, integers or floats for ada_norm_zero.
  /// Without effect for norm_type layer_norm, as in diffusers.
  TensorView timestep = {};
  /// Integers, (B) or () or (1), in [0, num_embeds_ada_norm]; the last is the unconditional class. ada_norm_zero only.
  TensorView class_labels = {};
  /// Attention in windows of frames; absent: over all of them. Not for backward, nor with dropout.
  std::optional<ContextOptions> context = {};
  /// Handed to every attention's processor; null for none.
  const CrossAttentionKwargs* cross_attention_kwargs = nullptr;
  /// Null for the default of every attention.
  const AttentionProcessors* attention_processors = nullptr;
  /// Training: dropout at the configuration's rate, and one class label in ten replaced by the unconditional one, both
  /// drawn from this seed. The same seed draws the same again, in forward and in backward, whatever engine or number of
  /// threads. Absent: evaluation.
  std::optional<std::uint64_t> training_seed = {};
  /// Threads to use; 0 takes KINEOGRAPH_NUM_THREADS, or all cores.
  int num_threads = 0;
  /// Called for accepted arguments that have no effect, and for unknown cross_attention_kwargs.
  WarningHandler on_warning = {};
  /// Progress and cancellation of the call, a forward or a backward; empty for neither.
  ProgressHandler on_progress = {};
  /// Threads of the call; null for the model's (ModelOptions::executor). num_threads 0 is then its concurrency().
  Executor* executor = nullptr;
  /// Several processes, ranks, that share the call: each calls with some rows of pixels of every frame, of one model,
  /// and gets those rows' sample. Null: all rows are here. hidden_states is (B*F, C, rows, W), of discrete latents
  /// (B*F, rows * sample_size); `rows` may differ from rank to rank and may be 0; encoder_hidden_states with a row a
  /// pixel has this rank's pixels. All other arguments are those of every rank. Rows are added up in the picture's
  /// order: any number of ranks gives the same bits, given the same instruction set. backward gives the gradients of
  /// parameters, and of encoder_hidden_states a row a video, by this rank's rows: their sum over the ranks is the
  /// whole's. Attention processors see this rank's pixels, counted from its first one. Where ranks disagree about the
  /// call all of them throw ArgumentError; where one fails the others throw CommunicationError.
  Communicator* communicator = nullptr;
  /// With a communicator: the row of the whole picture that hidden_states' first row of pixels is.
  std::int64_t first_image_row = 0;
  /// With a communicator: rows of pixels of the whole picture, H of all ranks together.
  std::int64_t total_image_rows = 0;
};

/// One parameter of the model: its name in diffusers' state dict, and its values.
struct Parameter {
  std::string name;  ///< such as "transformer_blocks.0.attn1.to_q.weight"
  TensorView value;  ///< memory of its owner
};

/// Gradients of a loss, which backward writes. Absent views are not computed; nothing is added to what is there.
/// Their memory lies apart from what backward reads.
struct Gradients {
  /// Of hidden_states, of its shape; f32, f16 or bf16, any strides. None for discrete latents.
  MutableTensorView hidden_states = {};
  /// Of encoder_hidden_states, of the shape it is given in; f32, f16 or bf16, any strides.
  MutableTensorView encoder_hidden_states = {};
  /// Of parameters, by their names in the state dict; contiguous f32 of their shapes. Others are frozen.
  struct Parameter {
    std::string name;         ///< as in the state dict
    MutableTensorView value;  ///< written whole
  };
  /// In any order, each name once.
  std::vector<Parameter> parameters = {};
};

/// The part that the three models share. Immutable once made: forward is const and may be called from any number of
/// threads at once. Copies are cheap and share the weights, packed ones too. So do models that are opened of the same
/// tensors of the same file with the same configuration and options while one of them lives: the file is told by
/// device, number, size and times, and one that changed less than two seconds before it was opened is nobody's copy. A
/// model whose weights are drawn packs them at its first call, so that one that is only saved packs none.
class KINEOGRAPH_API ModelMixin {
 public:
  /// Writes config.json and diffusion_pytorch_model[.variant].safetensors: both or neither.
  void save_pretrained(const std::filesystem::path& directory, std::string_view variant = {}) const;

  /// Parameters in the state dict's order; views into the model's memory, or its file. Throws IoError if that file was
  /// changed since it was opened.
  const std::vector<Parameter>& parameters() const;
  /// Elements of all parameters.
  std::int64_t num_parameters() const;
  /// The dtype most parameters are stored in.
  DType dtype() const noexcept;
  /// The engine that runs it, e.g. "cpu".
  std::string_view engine() const noexcept;
  /// The instruction set that the engine chose, e.g. "avx512".
  std::string_view isa() const noexcept;
  /// The dtype that inputs of matrix products are rounded to: f32 or bf16, on engine cuda f16 or bf16.
  DType compute_dtype() const noexcept;
  struct KINEOGRAPH_LOCAL Impl;  // the library's own

 protected:
  /// Of members that the library made.
  explicit ModelMixin(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;  ///< shared by copies
};

/// diffusers' TransformerTemporalModel.
class KINEOGRAPH_API TransformerTemporalModel : public ModelMixin {
 public:
  /// Opens a folder that diffusers' save_pretrained wrote: config.json and
  /// diffusion_pytorch_model[.variant].safetensors, or its shards. Weights are memory-mapped.
  /// Throws IoError, FormatError, ConfigError or CheckpointError.
  static TransformerTemporalModel from_pretrained(const std::filesystem::path& directory, ModelOptions options = {});

  /// A model with weights drawn from `seed`, the same on every machine: Linear as PyTorch draws them,
  /// uniform in +-1/sqrt(fan_in); norms 1 and 0; embedding tables uniform with variance 1.
  static TransformerTemporalModel from_config(const TransformerTemporalConfig& config, std::uint64_t seed = 0,
                                              ModelOptions options = {}, DType dtype = DType::f32);

  /// A model over tensors in the caller's memory, named as in diffusers' state dict. `owner` is kept alive with it.
  static TransformerTemporalModel from_state_dict(const TransformerTemporalConfig& config,
                                                  const std::vector<Parameter>& state_dict,
                                                  std::shared_ptr<const void> owner, ModelOptions options = {});

  /// hidden_states: (B*F, C, H, W), row b*F+f is frame f of video b; f32, f16 or bf16; any strides, fastest for
  /// contiguous ones. Discrete: i64 (B*F, sample_size^2). Throws ArgumentError before any work starts, and Cancelled.
  TransformerTemporalModelOutput forward(TensorView hidden_states, const ForwardOptions& options = {}) const;

  /// The same into the caller's memory; `sample` may be hidden_states' own memory if its layout is the same.
  void forward(TensorView hidden_states, MutableTensorView sample, const ForwardOptions& options = {}) const;

  /// The gradients of a loss by the input and the parameters, into memory apart from what is read. `sample_gradient` is
  /// the loss's gradient by forward's sample: f32, f16 or bf16 of its shape, any strides. `hidden_states` and `options`
  /// are those of the forward, which is computed anew: nothing needs to be kept from it. The same bits for any number
  /// of threads. Throws ArgumentError before any work starts.
  void backward(TensorView hidden_states, TensorView sample_gradient, const Gradients& gradients,
                const ForwardOptions& options = {}) const;

  /// The configuration it was made with, ModelOptions' overrides included.
  const TransformerTemporalConfig& config() const noexcept;
  /// Names of the attentions, for attention processors: "transformer_blocks.0.attn1", ...
  std::vector<std::string> attention_names() const;

  /// Bytes of working memory that one forward holds beyond its input, output and packed weights.
  std::size_t workspace_bytes(TensorView hidden_states, const ForwardOptions& options = {}) const;

 private:
  using ModelMixin::ModelMixin;
};

/// Result of forward, as in diffusers.
struct Transformer2DModelOutput {
  Tensor sample;  ///< (N, C, H, W) in the dtype of hidden_states
};

/// The images of one IP-Adapter. Every row's attn2 adds scale * attention(query, to_k_ip(x), to_v_ip(x)) in front of
/// to_out, as diffusers' IPAdapterAttnProcessor does without masks.
struct ImagePrompt {
  /// (N, T, D), a row of tokens a row of hidden_states, or (E, T, D) as encoder_hidden_states; D is
  /// cross_attention_dim.
  TensorView hidden_states = {};
  std::vector<double> scale = {1.0};  ///< one a layer, or one for all
};

/// The arguments of diffusers' Transformer2DModel.forward after hidden_states. Views are read during the call only.
struct Transformer2DForwardOptions {
  /// (N, S, D), a row of tokens a row of hidden_states as in diffusers; or (E, S, D) with E a divisor of N, of which
  /// row n reads n * E / N: a row a video for its frames, or one for all.
  TensorView encoder_hidden_states = {};
  /// One value a row, (N), or one for all, () or (1); as ForwardOptions::timestep.
  TensorView timestep = {};
  /// One a row, (N), or one for all, () or (1); as ForwardOptions::class_labels.
  TensorView class_labels = {};
  /// For attn1, whose keys are the row's own H*W pixels (with only_cross_attention the S tokens): (N, K) of 1 or true
  /// for keys that are kept and 0 for those that are discarded, which get -10000 added to their scores; or a floating
  /// bias (N, 1, K), (N, H*W, K), (N * heads, 1, K) or (N * heads, H*W, K) that is added to the scores.
  TensorView attention_mask = {};
  /// The same for attn2, whose keys are encoder_hidden_states' tokens.
  TensorView encoder_attention_mask = {};
  /// One for each of the configuration's num_ip_adapters, in order; or none, which leaves the adapters out.
  std::vector<ImagePrompt> image_prompts = {};
  /// Threads to use; 0 takes KINEOGRAPH_NUM_THREADS, or all cores.
  int num_threads = 0;
  /// Called for accepted arguments that have no effect.
  WarningHandler on_warning = {};
  /// As ForwardOptions::on_progress.
  ProgressHandler on_progress = {};
  /// As ForwardOptions::executor.
  Executor* executor = nullptr;
};

/// diffusers' Transformer2DModel over continuous latents: the transformer over the pixels of an image that the UNets of
/// Stable Diffusion, AnimateDiff, ModelScope and I2VGen-XL use.
class KINEOGRAPH_API Transformer2DModel : public ModelMixin {
 public:
  /// As TransformerTemporalModel's.
  static Transformer2DModel from_pretrained(const std::filesystem::path& directory, ModelOptions options = {});
  /// As TransformerTemporalModel's.
  static Transformer2DModel from_config(const Transformer2DConfig& config, std::uint64_t seed = 0,
                                        ModelOptions options = {}, DType dtype = DType::f32);
  /// As TransformerTemporalModel's.
  static Transformer2DModel from_state_dict(const Transformer2DConfig& config, const std::vector<Parameter>& state_dict,
                                            std::shared_ptr<const void> owner, ModelOptions options = {});

  /// hidden_states: (N, C, H, W); f32, f16 or bf16; any strides. Throws ArgumentError before any work starts.
  Transformer2DModelOutput forward(TensorView hidden_states, const Transformer2DForwardOptions& options = {}) const;
  /// The same into the caller's memory; `sample` may be hidden_states' own memory if its layout is the same.
  void forward(TensorView hidden_states, MutableTensorView sample,
               const Transformer2DForwardOptions& options = {}) const;

  /// The configuration it was made with.
  const Transformer2DConfig& config() const noexcept;
  /// Bytes of working memory that one forward holds beyond its input, output and packed weights.
  std::size_t workspace_bytes(TensorView hidden_states, const Transformer2DForwardOptions& options = {}) const;

 private:
  using ModelMixin::ModelMixin;
};

/// The arguments of diffusers' TransformerSpatioTemporalModel.forward after hidden_states.
struct TransformerSpatioTemporalForwardOptions {
  /// F; hidden_states has B*F rows. 0: image_only_indicator's last extent, as in diffusers, or 1 without one.
  std::int64_t num_frames = 0;
  /// (B*F, S, D) as in diffusers, whose temporal blocks read the first frame's row of every video; or (B, S, D), a row
  /// a video, or (1, S, D). Without one every attention attends to its own tokens, if cross_attention_dim is I or none.
  TensorView encoder_hidden_states = {};
  /// (B, F), or (F) or (1, F) for all videos: other than zero for frames that are images by themselves, which take
  /// nothing from the temporal blocks. Absent: all are frames of videos.
  TensorView image_only_indicator = {};
  /// Threads to use; 0 takes KINEOGRAPH_NUM_THREADS, or all cores.
  int num_threads = 0;
  /// Called for accepted arguments that have no effect.
  WarningHandler on_warning = {};
  /// As ForwardOptions::on_progress.
  ProgressHandler on_progress = {};
  /// As ForwardOptions::executor.
  Executor* executor = nullptr;
};

/// diffusers' TransformerSpatioTemporalModel: Stable Video Diffusion's transformer over the pixels of a frame and the
/// frames of a video in turn.
class KINEOGRAPH_API TransformerSpatioTemporalModel : public ModelMixin {
 public:
  /// As TransformerTemporalModel's.
  static TransformerSpatioTemporalModel from_pretrained(const std::filesystem::path& directory,
                                                        ModelOptions options = {});
  /// As TransformerTemporalModel's; time_mixer.mix_factor is 0.5.
  static TransformerSpatioTemporalModel from_config(const TransformerSpatioTemporalConfig& config,
                                                    std::uint64_t seed = 0, ModelOptions options = {},
                                                    DType dtype = DType::f32);
  /// As TransformerTemporalModel's.
  static TransformerSpatioTemporalModel from_state_dict(const TransformerSpatioTemporalConfig& config,
                                                        const std::vector<Parameter>& state_dict,
                                                        std::shared_ptr<const void> owner, ModelOptions options = {});

  /// hidden_states: (B*F, C, H, W), row b*F+f is frame f of video b; f32, f16 or bf16; any strides. Throws
  /// ArgumentError before any work starts.
  TransformerTemporalModelOutput forward(TensorView hidden_states,
                                         const TransformerSpatioTemporalForwardOptions& options = {}) const;
  /// The same into the caller's memory; `sample` may be hidden_states' own memory if its layout is the same.
  void forward(TensorView hidden_states, MutableTensorView sample,
               const TransformerSpatioTemporalForwardOptions& options = {}) const;

  /// The configuration it was made with.
  const TransformerSpatioTemporalConfig& config() const noexcept;
  /// Bytes of working memory that one forward holds beyond its input, output and packed weights.
  std::size_t workspace_bytes(TensorView hidden_states,
                              const TransformerSpatioTemporalForwardOptions& options = {}) const;

 private:
  using ModelMixin::ModelMixin;
};

/// Names that ModelOptions::engine takes besides "auto", best first.
KINEOGRAPH_API std::vector<std::string> engines();
/// Instruction sets this machine can run for an engine, best first.
KINEOGRAPH_API std::vector<std::string> instruction_sets(std::string_view engine);
/// The machine's limit, for benchmarks: GFLOP/s that multiply-adds on registers reach on `threads` threads (0: all) in
/// a tenth of a second or so. 0 for an engine that is not bound by it. Throws ArgumentError for unknown names.
KINEOGRAPH_API double peak_gflops(std::string_view engine, const std::string& isa, DType compute_dtype,
                                  int threads = 0);
/// "0.1.0"
KINEOGRAPH_API std::string_view version() noexcept;

}  // namespace kineograph

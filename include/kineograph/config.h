// The configuration: one field per key of diffusers' config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kineograph/export.h"

namespace kineograph {

/// The six activations of diffusers' FeedForward.
enum class Activation { geglu, gelu, gelu_approximate, geglu_approximate, swiglu, linear_silu };
/// Whether ff.net.0.proj gives 8 I rows, 4 I values and then the gates that they are multiplied with, activated.
constexpr bool is_gated(Activation value) noexcept { return value == Activation::geglu || value == Activation::swiglu; }
/// norm1 and norm2 of a block: plain, or conditioned on timestep (AdaLayerNorm) or on timestep and class label
/// (AdaLayerNormZero).
enum class NormType { layer_norm, ada_norm, ada_norm_zero };
/// What the input GroupNorm's statistics span: all frames of a clip (diffusers) or each frame by itself (the original
/// AnimateDiff).
enum class GroupNormScope { clip, frame };
/// Added to the tokens in front of each attention.
enum class PositionalEmbeddings { none, sinusoidal };

KINEOGRAPH_API std::string_view name_of(Activation value) noexcept;
KINEOGRAPH_API std::string_view name_of(NormType value) noexcept;
KINEOGRAPH_API std::string_view name_of(GroupNormScope value) noexcept;
KINEOGRAPH_API std::string_view name_of(PositionalEmbeddings value) noexcept;

/// Called with one sentence for what is accepted but worth knowing.
using WarningHandler = std::function<void(std::string_view)>;

/// What to do with a key that nobody knows.
enum class UnknownKeys { refuse, warn };

/// The keys that the configurations of the three models share. Names are diffusers' on Transformer2DModel,
/// TransformerTemporalModel and BasicTransformerBlock; which of them a model's config.json may have is the model's to
/// say, the others keep their defaults.
struct TransformerConfig {
  std::int64_t num_attention_heads = 16;            ///< heads of every attention
  std::int64_t attention_head_dim = 88;             ///< width of a head; I = heads * width
  std::optional<std::int64_t> in_channels;          ///< C, of input and sample; none for discrete latents
  std::optional<std::int64_t> out_channels;         ///< see the model's own configuration
  std::int64_t num_layers = 1;                      ///< transformer blocks
  double dropout = 0.0;                             ///< training only
  std::int64_t norm_num_groups = 32;                ///< groups of the input's GroupNorm; divides C
  std::optional<std::int64_t> cross_attention_dim;  ///< D, width of encoder_hidden_states
  bool attention_bias = false;                      ///< whether to_q, to_k and to_v have a bias
  std::optional<std::int64_t> sample_size;          ///< discrete latents: pixels across and down
  Activation activation_fn = Activation::geglu;     ///< of the feed-forward
  bool norm_elementwise_affine = true;              ///< whether the blocks' LayerNorms have weight and bias
  bool double_self_attention = false;               ///< attn2 is a self-attention too
  /// attn1 attends to encoder_hidden_states as well.
  bool only_cross_attention = false;
  PositionalEmbeddings positional_embeddings = PositionalEmbeddings::none;  ///< see the type
  std::optional<std::int64_t> num_positional_embeddings;                    ///< rows of the position table
  NormType norm_type = NormType::layer_norm;                                ///< see the type
  std::optional<std::int64_t> num_embeds_ada_norm;                          ///< rows of the conditioned norms' tables
  double norm_eps = 1e-5;                         ///< of norm1 to norm3 where they are plain LayerNorms
  std::optional<std::int64_t> num_vector_embeds;  ///< V, classes of discrete latents; the last is the mask

  /// Keys that begin with "_" (such as _class_name), as JSON text, kept and written back.
  std::vector<std::pair<std::string, std::string>> private_keys;

  /// I: the width inside the blocks, num_attention_heads * attention_head_dim.
  std::int64_t inner_dim() const noexcept { return num_attention_heads * attention_head_dim; }
  /// Whether the input is class indices of latent pixels instead of latents.
  bool is_discrete() const noexcept { return num_vector_embeds.has_value(); }
  /// Whether a block has its second attention.
  bool has_attn2() const noexcept { return double_self_attention || cross_attention_dim.has_value(); }
  /// Width that attn1's to_k and to_v read: cross_attention_dim with only_cross_attention, else I.
  std::int64_t attn1_context_dim() const noexcept {
    return only_cross_attention ? cross_attention_dim.value_or(inner_dim()) : inner_dim();
  }
  /// Width that attn2's to_k and to_v read: cross_attention_dim for cross-attention, else I.
  std::int64_t attn2_context_dim() const noexcept {
    return double_self_attention ? inner_dim() : cross_attention_dim.value_or(inner_dim());
  }

  /// Equal in every key.
  bool operator==(const TransformerConfig&) const = default;
};

/// Configuration of TransformerTemporalModel. Names and defaults are diffusers'; see docs/model.md for each key.
/// out_channels is accepted and unused, as in diffusers; norm_type, num_embeds_ada_norm and num_vector_embeds are
/// names on other classes of diffusers, which its temporal model documents or accepts but does not pass on.
struct KINEOGRAPH_API TransformerTemporalConfig : TransformerConfig {
  GroupNormScope group_norm_scope = GroupNormScope::clip;  ///< ours

  TransformerTemporalConfig() { double_self_attention = true; }

  /// Throws ConfigError for values that are out of range or do not fit together.
  void validate() const;

  /// Parses diffusers' config.json text. `where` names the source in errors. With UnknownKeys::refuse an unknown key is
  /// a ConfigError that suggests the nearest known one; with warn it is passed to `on_warning` and dropped.
  static TransformerTemporalConfig from_json(std::string_view text, std::string_view where = "config.json",
                                             UnknownKeys unknown = UnknownKeys::refuse,
                                             const WarningHandler& on_warning = {});
  /// The same from a file; `where` is its path. Throws IoError too.
  static TransformerTemporalConfig from_file(const std::filesystem::path& path,
                                             UnknownKeys unknown = UnknownKeys::refuse,
                                             const WarningHandler& on_warning = {});
  /// config.json text that diffusers reads; keys beyond diffusers' own are written only when they differ from the
  /// default.
  std::string to_json() const;

  /// Equal in every key.
  bool operator==(const TransformerTemporalConfig&) const = default;
};

/// Configuration of Transformer2DModel over continuous latents (N, C, H, W). Patched and vectorised inputs (DiT,
/// PixArt, VQ-Diffusion), other values of norm_type and GLIGEN's attention_type are refused by name. A config.json with
/// num_embeds_ada_norm and norm_type "layer_norm" or none means "ada_norm", as in diffusers.
struct KINEOGRAPH_API Transformer2DConfig : TransformerConfig {
  /// proj_in and proj_out are Linear layers instead of 1 x 1 convolutions: the same numbers from weights of another
  /// shape.
  bool use_linear_projection = false;
  bool upcast_attention = false;  ///< accepted: scores and softmax are never narrower than f32
  /// How many IP-Adapters attn2 has keys and values for (attn2.processor.to_k_ip.i, to_v_ip.i); ours, as diffusers
  /// keeps it beside the configuration.
  std::int64_t num_ip_adapters = 0;
  std::optional<std::int64_t> caption_channels;   ///< accepted and unused, as in diffusers for continuous input
  std::optional<double> interpolation_scale;      ///< accepted and unused
  std::optional<bool> use_additional_conditions;  ///< accepted and unused

  /// As TransformerTemporalConfig's.
  void validate() const;
  /// As TransformerTemporalConfig's.
  static Transformer2DConfig from_json(std::string_view text, std::string_view where = "config.json",
                                       UnknownKeys unknown = UnknownKeys::refuse,
                                       const WarningHandler& on_warning = {});
  /// The same from a file; `where` is its path. Throws IoError too.
  static Transformer2DConfig from_file(const std::filesystem::path& path, UnknownKeys unknown = UnknownKeys::refuse,
                                       const WarningHandler& on_warning = {});
  /// As TransformerTemporalConfig's.
  std::string to_json() const;

  /// Equal in every key.
  bool operator==(const Transformer2DConfig&) const = default;
};

/// Configuration of TransformerSpatioTemporalModel: num_attention_heads, attention_head_dim, in_channels (320),
/// out_channels (unused), num_layers and cross_attention_dim, the arguments of diffusers' class. in_channels equals I.
struct KINEOGRAPH_API TransformerSpatioTemporalConfig : TransformerConfig {
  TransformerSpatioTemporalConfig() { in_channels = 320; }

  /// As TransformerTemporalConfig's.
  void validate() const;
  /// As TransformerTemporalConfig's.
  static TransformerSpatioTemporalConfig from_json(std::string_view text, std::string_view where = "config.json",
                                                   UnknownKeys unknown = UnknownKeys::refuse,
                                                   const WarningHandler& on_warning = {});
  /// The same from a file; `where` is its path. Throws IoError too.
  static TransformerSpatioTemporalConfig from_file(const std::filesystem::path& path,
                                                   UnknownKeys unknown = UnknownKeys::refuse,
                                                   const WarningHandler& on_warning = {});
  /// As TransformerTemporalConfig's.
  std::string to_json() const;

  /// Equal in every key.
  bool operator==(const TransformerSpatioTemporalConfig&) const = default;
};

/// The configuration of any of the three models.
using ModelConfig = std::variant<TransformerTemporalConfig, Transformer2DConfig, TransformerSpatioTemporalConfig>;

/// The configuration in a config.json of any of the three: its _class_name says which, TransformerTemporalModel where
/// it has none. Throws IoError and ConfigError, also for another class.
KINEOGRAPH_API ModelConfig read_config(const std::filesystem::path& path, UnknownKeys unknown = UnknownKeys::refuse,
                                       const WarningHandler& on_warning = {});
/// What the three have in common.
KINEOGRAPH_API const TransformerConfig& common(const ModelConfig& config) noexcept;
/// diffusers' class: "TransformerTemporalModel", "Transformer2DModel" or "TransformerSpatioTemporalModel".
KINEOGRAPH_API std::string_view class_name(const ModelConfig& config) noexcept;

/// A published model's module, ready for from_config.
struct Preset {
  std::string_view name;         ///< such as "animatediff-v3-320"
  std::string_view description;  ///< the model, and where in it the module stands
  ModelConfig config;            ///< as the published files have it
};
/// All of them, model by model.
KINEOGRAPH_API const std::vector<Preset>& presets();

}  // namespace kineograph

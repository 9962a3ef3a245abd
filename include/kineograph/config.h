// The configuration: one field per key of diffusers' config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kineograph {

/// The six activations of diffusers' FeedForward.
enum class Activation { geglu, gelu, gelu_approximate, geglu_approximate, swiglu, linear_silu };
/// norm1 and norm2 of a block: plain, or conditioned on timestep (AdaLayerNorm) or on timestep and class label
/// (AdaLayerNormZero).
enum class NormType { layer_norm, ada_norm, ada_norm_zero };
/// What the input GroupNorm's statistics span: all frames of a clip (diffusers) or each frame by itself (the original
/// AnimateDiff).
enum class GroupNormScope { clip, frame };
/// Added to the tokens in front of each attention.
enum class PositionalEmbeddings { none, sinusoidal };

std::string_view name_of(Activation value) noexcept;
std::string_view name_of(NormType value) noexcept;
std::string_view name_of(GroupNormScope value) noexcept;
std::string_view name_of(PositionalEmbeddings value) noexcept;

/// Called with one sentence for what is accepted but worth knowing.
using WarningHandler = std::function<void(std::string_view)>;

/// What to do with a key that nobody knows.
enum class UnknownKeys { refuse, warn };

/// Configuration of TransformerTemporalModel. Names and defaults are diffusers'; see docs/model.md for each key.
struct TransformerTemporalConfig {
  std::int64_t num_attention_heads = 16;
  std::int64_t attention_head_dim = 88;
  std::optional<std::int64_t> in_channels;
  std::optional<std::int64_t> out_channels;  ///< accepted and unused, as in diffusers
  std::int64_t num_layers = 1;
  double dropout = 0.0;  ///< training only
  std::int64_t norm_num_groups = 32;
  std::optional<std::int64_t> cross_attention_dim;
  bool attention_bias = false;
  std::optional<std::int64_t> sample_size;
  Activation activation_fn = Activation::geglu;
  bool norm_elementwise_affine = true;
  bool double_self_attention = true;
  PositionalEmbeddings positional_embeddings = PositionalEmbeddings::none;
  std::optional<std::int64_t> num_positional_embeddings;

  // diffusers' names on BasicTransformerBlock and Transformer2DModel, which its temporal model documents or accepts but
  // does not pass on.
  NormType norm_type = NormType::layer_norm;
  std::optional<std::int64_t> num_embeds_ada_norm;
  std::optional<std::int64_t> num_vector_embeds;
  // Ours.
  GroupNormScope group_norm_scope = GroupNormScope::clip;

  /// Keys that begin with "_" (such as _class_name), as JSON text, kept and written back.
  std::vector<std::pair<std::string, std::string>> private_keys;

  /// I: the width inside the blocks, num_attention_heads * attention_head_dim.
  std::int64_t inner_dim() const noexcept { return num_attention_heads * attention_head_dim; }
  /// Whether the input is class indices of latent pixels instead of latents.
  bool is_discrete() const noexcept { return num_vector_embeds.has_value(); }
  /// Whether a block has its second attention.
  bool has_attn2() const noexcept { return double_self_attention || cross_attention_dim.has_value(); }
  /// Width that attn2's to_k and to_v read: cross_attention_dim for cross-attention, else I.
  std::int64_t attn2_context_dim() const noexcept {
    return double_self_attention ? inner_dim() : cross_attention_dim.value_or(inner_dim());
  }

  /// Throws ConfigError for values that are out of range or do not fit together.
  void validate() const;

  /// Parses diffusers' config.json text. `where` names the source in errors. With UnknownKeys::refuse an unknown key is
  /// a ConfigError that suggests the nearest known one; with warn it is passed to `on_warning` and dropped.
  static TransformerTemporalConfig from_json(std::string_view text, std::string_view where = "config.json",
                                             UnknownKeys unknown = UnknownKeys::refuse,
                                             const WarningHandler& on_warning = {});
  static TransformerTemporalConfig from_file(const std::filesystem::path& path,
                                             UnknownKeys unknown = UnknownKeys::refuse,
                                             const WarningHandler& on_warning = {});
  /// config.json text that diffusers reads; keys beyond diffusers' own are written only when they differ from the
  /// default.
  std::string to_json() const;

  bool operator==(const TransformerTemporalConfig&) const = default;
};

/// A published model's module, ready for from_config.
struct Preset {
  std::string_view name;         ///< e.g. "animatediff-v3/down_blocks.0"
  std::string_view description;  ///< the model, and where in it the module stands
  TransformerTemporalConfig config;
};
const std::vector<Preset>& presets();

}  // namespace kineograph

// Which values a configuration may have, and which fit together.
#include <string>

#include "config/keys.h"
#include "kineograph/config.h"
#include "kineograph/error.h"

namespace kineograph {
namespace {

void require(bool condition, std::string_view key, const std::string& expected, const std::string& found,
             const std::string& hint = {}) {
  if (!condition) throw ConfigError("config: " + std::string(key), expected, found, hint);
}

void require_positive(std::string_view key, std::int64_t value, std::int64_t most) {
  require(value > 0 && value <= most, key, "1 to " + std::to_string(most), std::to_string(value));
}

// Far beyond every published model, and far below what could overflow a product of four of them.
constexpr std::int64_t kMaxWidth = 1 << 20;

void require_blocks(const TransformerConfig& c) {
  require_positive("num_attention_heads", c.num_attention_heads, kMaxWidth);
  require_positive("attention_head_dim", c.attention_head_dim, kMaxWidth);
  require(c.inner_dim() <= kMaxWidth, "num_attention_heads * attention_head_dim",
          "at most " + std::to_string(kMaxWidth), std::to_string(c.inner_dim()));
  require(c.num_layers >= 0 && c.num_layers <= 1024, "num_layers", "0 to 1024", std::to_string(c.num_layers));
  require(c.dropout >= 0.0 && c.dropout <= 1.0, "dropout", "0 to 1", std::to_string(c.dropout));
  if (c.cross_attention_dim) require_positive("cross_attention_dim", *c.cross_attention_dim, kMaxWidth);
  if (c.sample_size) require_positive("sample_size", *c.sample_size, 1 << 15);
  if (c.num_positional_embeddings)
    require_positive("num_positional_embeddings", *c.num_positional_embeddings, kMaxWidth);
  if (c.positional_embeddings != PositionalEmbeddings::none) {
    require(c.num_positional_embeddings.has_value(), "num_positional_embeddings",
            "a number of positions, as positional_embeddings is set", "none");
    require(c.inner_dim() % 2 == 0, "num_attention_heads * attention_head_dim",
            "an even width for sinusoidal positional_embeddings", std::to_string(c.inner_dim()));
  }
  require(c.norm_eps >= 0.0 && c.norm_eps <= 1.0, "norm_eps", "0 to 1", std::to_string(c.norm_eps));
  if (c.norm_type != NormType::layer_norm) {
    require(c.num_embeds_ada_norm.has_value(), "num_embeds_ada_norm",
            "a number, as norm_type is " + std::string(name_of(c.norm_type)), "none");
    require_positive("num_embeds_ada_norm", *c.num_embeds_ada_norm, kMaxWidth);
  }
}

void require_image(const TransformerConfig& c) {
  require(c.in_channels.has_value(), "in_channels", "the channels of hidden_states", "none");
  require_positive("in_channels", *c.in_channels, kMaxWidth);
  require_positive("norm_num_groups", c.norm_num_groups, kMaxWidth);
  require(*c.in_channels % c.norm_num_groups == 0, "norm_num_groups",
          "a divisor of in_channels " + std::to_string(*c.in_channels), std::to_string(c.norm_num_groups));
}

void require_classes(const TransformerConfig& c) {
  require(*c.num_vector_embeds >= 2 && *c.num_vector_embeds <= kMaxWidth, "num_vector_embeds",
          "2 to " + std::to_string(kMaxWidth), std::to_string(*c.num_vector_embeds));
  require(c.sample_size.has_value(), "sample_size", "the side of the latent image, as num_vector_embeds is set",
          "none");
  require(!c.in_channels.has_value(), "in_channels", "none, as num_vector_embeds makes the input discrete",
          std::to_string(c.in_channels.value_or(0)));
}

}  // namespace

void TransformerTemporalConfig::validate() const {
  config::check_foreign_keys(*this);
  require_blocks(*this);
  if (is_discrete())
    require_classes(*this);
  else
    require_image(*this);
}

void Transformer2DConfig::validate() const {
  config::check_foreign_keys(*this);
  require_blocks(*this);
  require_image(*this);
  require(!out_channels || *out_channels == *in_channels, "out_channels",
          "in_channels " + std::to_string(*in_channels) + " or none: the input is added to the output",
          std::to_string(out_channels.value_or(0)));
  require(num_ip_adapters >= 0 && num_ip_adapters <= 64, "num_ip_adapters", "0 to 64", std::to_string(num_ip_adapters));
  require(num_ip_adapters == 0 || (cross_attention_dim && !double_self_attention), "num_ip_adapters",
          "0, as attn2 is no cross-attention", std::to_string(num_ip_adapters));
}

void TransformerSpatioTemporalConfig::validate() const {
  config::check_foreign_keys(*this);
  require_blocks(*this);
  require_image(*this);
  require(inner_dim() == *in_channels, "num_attention_heads * attention_head_dim",
          "in_channels " + std::to_string(*in_channels) + ": time_pos_embed is that wide", std::to_string(inner_dim()));
}

}  // namespace kineograph

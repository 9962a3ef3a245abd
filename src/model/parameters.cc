#include "model/parameters.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>

#include "base/text.h"
#include "model/seeded.h"

namespace kineograph::model {
namespace {

template <class View>
class Table {
 public:
  explicit Table(std::vector<SlotOf<View>>& slots) : slots_(slots) {}

  void add(const std::string& name, Shape shape, Role role, std::int64_t fan_in, View& view) {
    slots_.push_back({name, shape, role, fan_in, &view});
  }
  void linear(const std::string& name, std::int64_t rows, std::int64_t cols, bool bias, engine::LinearOf<View>& layer) {
    add(name + ".weight", {rows, cols}, Role::linear_weight, cols, layer.weight);
    if (bias) add(name + ".bias", {rows}, Role::linear_bias, cols, layer.bias);
  }
  /// A Linear layer that is kept as a 1 x 1 convolution.
  void conv(const std::string& name, std::int64_t rows, std::int64_t cols, engine::LinearOf<View>& layer) {
    add(name + ".weight", {rows, cols, 1, 1}, Role::linear_weight, cols, layer.weight);
    add(name + ".bias", {rows}, Role::linear_bias, cols, layer.bias);
  }
  void norm(const std::string& name, std::int64_t width, engine::NormOf<View>& layer) {
    add(name + ".weight", {width}, Role::norm_weight, 0, layer.weight);
    add(name + ".bias", {width}, Role::norm_bias, 0, layer.bias);
  }
  void embedding(const std::string& name, std::int64_t rows, std::int64_t width, View& view) {
    add(name + ".weight", {rows, width}, Role::embedding, 0, view);
  }
  void attention(const std::string& name, std::int64_t inner, std::int64_t context, bool bias,
                 engine::AttentionOf<View>& layer) {
    linear(name + ".to_q", inner, inner, bias, layer.to_q);
    linear(name + ".to_k", inner, context, bias, layer.to_k);
    linear(name + ".to_v", inner, context, bias, layer.to_v);
    linear(name + ".to_out.0", inner, inner, true, layer.to_out);
  }
  void feed_forward(const std::string& name, const TransformerConfig& config, engine::LinearOf<View>& in,
                    engine::LinearOf<View>& out) {
    const std::int64_t inner = config.inner_dim();
    linear(name + ".net.0.proj", (is_gated(config.activation_fn) ? 8 : 4) * inner, inner, true, in);
    linear(name + ".net.2", inner, 4 * inner, true, out);
  }
  void ada_norm(const std::string& name, const TransformerConfig& config, engine::AdaNormOf<View>& layer) {
    const std::int64_t inner = config.inner_dim(), embeds = *config.num_embeds_ada_norm;
    if (config.norm_type == NormType::ada_norm) {
      embedding(name + ".emb", embeds, inner, layer.emb);
      linear(name + ".linear", 2 * inner, inner, true, layer.linear);
      return;
    }
    linear(name + ".emb.timestep_embedder.linear_1", inner, 256, true, layer.timestep_linear_1);
    linear(name + ".emb.timestep_embedder.linear_2", inner, inner, true, layer.timestep_linear_2);
    // The last row is the class of dropped labels.
    embedding(name + ".emb.class_embedder.embedding_table", embeds + 1, inner, layer.class_table);
    linear(name + ".linear", 6 * inner, inner, true, layer.linear);
  }

 private:
  std::vector<SlotOf<View>>& slots_;
};

/// attn2 of a block with IP-Adapters: diffusers keeps their layers in the attention's processor.
template <class View>
void add_ip_adapters(Table<View>& table, const TransformerConfig& config, const std::string& name,
                     std::int64_t adapters, engine::AttentionOf<View>& layer) {
  const auto count = static_cast<std::size_t>(adapters);
  layer.to_k_ip.resize(count);
  layer.to_v_ip.resize(count);
  for (const auto& [part, layers] :
       {std::pair{".processor.to_k_ip.", &layer.to_k_ip}, std::pair{".processor.to_v_ip.", &layer.to_v_ip}})
    for (std::size_t i = 0; i < count; ++i)
      table.linear(name + part + std::to_string(i), config.inner_dim(), config.attn2_context_dim(), false,
                   (*layers)[i]);
}

/// norm1 to ff.net.2.
template <class View>
void add_block(Table<View>& table, const TransformerConfig& config, const std::string& name, std::int64_t ip_adapters,
               engine::BlockOf<View>& block) {
  const std::int64_t inner = config.inner_dim();
  const bool affine = config.norm_elementwise_affine;
  if (config.positional_embeddings == PositionalEmbeddings::sinusoidal)
    table.add(name + ".pos_embed.pe", {1, *config.num_positional_embeddings, inner}, Role::positions, 0, block.pe);
  if (config.norm_type != NormType::layer_norm)
    table.ada_norm(name + ".norm1", config, block.ada_norm1);
  else if (affine)
    table.norm(name + ".norm1", inner, block.norm1);
  table.attention(name + ".attn1", inner, config.attn1_context_dim(), config.attention_bias, block.attn1);
  if (config.has_attn2()) {
    if (config.norm_type == NormType::ada_norm)
      table.ada_norm(name + ".norm2", config, block.ada_norm2);
    else if (affine)
      table.norm(name + ".norm2", inner, block.norm2);
    table.attention(name + ".attn2", inner, config.attn2_context_dim(), config.attention_bias, block.attn2);
    add_ip_adapters(table, config, name + ".attn2", ip_adapters, block.attn2);
  }
  if (affine) table.norm(name + ".norm3", inner, block.norm3);
  table.feed_forward(name + ".ff", config, block.ff_in, block.ff_out);
}

template <class View>
void add_blocks(Table<View>& table, const TransformerConfig& config, std::int64_t ip_adapters,
                engine::WeightsOf<View>& weights) {
  weights.blocks.resize(static_cast<std::size_t>(config.num_layers));
  for (std::size_t layer = 0; layer < weights.blocks.size(); ++layer)
    add_block(table, config, "transformer_blocks." + std::to_string(layer), ip_adapters, weights.blocks[layer]);
}

template <class View>
void add_model(Table<View>& table, const TransformerTemporalConfig& config, engine::WeightsOf<View>& weights) {
  const std::int64_t inner = config.inner_dim();
  if (config.is_discrete()) {
    table.embedding("latent_image_embedding.emb", *config.num_vector_embeds, inner, weights.latent_emb);
    table.embedding("latent_image_embedding.height_emb", *config.sample_size, inner, weights.latent_height_emb);
    table.embedding("latent_image_embedding.width_emb", *config.sample_size, inner, weights.latent_width_emb);
  } else {
    table.norm("norm", *config.in_channels, weights.norm);
    table.linear("proj_in", inner, *config.in_channels, true, weights.proj_in);
  }
  add_blocks(table, config, 0, weights);
  if (config.is_discrete()) {
    table.norm("norm_out", inner, weights.norm_out);
    table.linear("out", *config.num_vector_embeds - 1, inner, true, weights.out);
  } else {
    table.linear("proj_out", *config.in_channels, inner, true, weights.proj_out);
  }
}

template <class View>
void add_model(Table<View>& table, const Transformer2DConfig& config, engine::WeightsOf<View>& weights) {
  const std::int64_t inner = config.inner_dim(), channels = *config.in_channels;
  const auto project = [&](const char* name, std::int64_t rows, std::int64_t cols, engine::LinearOf<View>& layer) {
    if (config.use_linear_projection)
      table.linear(name, rows, cols, true, layer);
    else
      table.conv(name, rows, cols, layer);
  };
  table.norm("norm", channels, weights.norm);
  project("proj_in", inner, channels, weights.proj_in);
  add_blocks(table, config, config.num_ip_adapters, weights);
  project("proj_out", channels, inner, weights.proj_out);
}

template <class View>
void add_model(Table<View>& table, const TransformerSpatioTemporalConfig& config, engine::WeightsOf<View>& weights) {
  const std::int64_t inner = config.inner_dim(), channels = *config.in_channels;
  table.norm("norm", channels, weights.norm);
  table.linear("proj_in", inner, channels, true, weights.proj_in);
  add_blocks(table, config, 0, weights);
  weights.temporal_blocks.resize(weights.blocks.size());
  for (std::size_t layer = 0; layer < weights.blocks.size(); ++layer) {
    const std::string name = "temporal_transformer_blocks." + std::to_string(layer);
    engine::TemporalBlockOf<View>& block = weights.temporal_blocks[layer];
    table.norm(name + ".norm_in", inner, block.norm_in);
    table.feed_forward(name + ".ff_in", config, block.first_ff_in, block.first_ff_out);
    add_block(table, config, name, 0, block);
  }
  table.linear("time_pos_embed.linear_1", 4 * channels, channels, true, weights.time_pos_embed_1);
  table.linear("time_pos_embed.linear_2", channels, 4 * channels, true, weights.time_pos_embed_2);
  table.add("time_mixer.mix_factor", {1}, Role::mix_factor, 0, weights.mix_factor);
  table.linear("proj_out", channels, inner, true, weights.proj_out);
}

}  // namespace

template <class View>
std::vector<SlotOf<View>> parameter_slots(const ModelConfig& config, engine::WeightsOf<View>& weights) {
  std::vector<SlotOf<View>> slots;
  Table<View> table(slots);
  std::visit([&](const auto& one) { add_model(table, one, weights); }, config);
  return slots;
}

template std::vector<SlotOf<TensorView>> parameter_slots(const ModelConfig&, engine::WeightsOf<TensorView>&);
template std::vector<SlotOf<MutableTensorView>> parameter_slots(const ModelConfig&,
                                                                engine::WeightsOf<MutableTensorView>&);

TensorView as_engine_sees(const TensorView& view) {
  return view.rank() == 4 ? TensorView(view.data(), view.dtype(), {view.size(0), view.size(1)}) : view;
}

std::string state_dict_problems(const std::vector<Slot>& slots, const std::vector<Parameter>& state_dict) {
  std::map<std::string_view, const TensorView*> given;
  for (const Parameter& parameter : state_dict) given[parameter.name] = &parameter.value;
  std::vector<std::string> problems;
  for (const Slot& slot : slots) {
    const auto found = given.find(slot.name);
    if (found == given.end()) {
      if (slot.role != Role::positions) problems.push_back("missing " + slot.name + " " + to_string(slot.shape));
      continue;
    }
    const TensorView& view = *found->second;
    given.erase(found);
    if (!(view.shape() == slot.shape))
      problems.push_back("misshapen " + slot.name + ": expected " + to_string(slot.shape) + ", found " +
                         to_string(view.shape()));
    else if (!is_floating(view.dtype()))
      problems.push_back("wrong dtype of " + slot.name + ": expected f32, f16, bf16 or f64, found " +
                         std::string(name_of(view.dtype())));
  }
  for (const auto& [name, view] : given)
    problems.push_back("unexpected " + shortened(name) + " " + to_string(view->shape()));
  return first_of(problems);
}

Tensor sinusoidal_positions(std::int64_t positions, std::int64_t width) {
  Tensor table(DType::f32, {1, positions, width});
  float* pe = table.data_as<float>();
  const auto rate = static_cast<float>(-std::log(10000.0) / static_cast<double>(width));
  for (std::int64_t i = 0; 2 * i < width; ++i) {
    const float frequency = std::exp(static_cast<float>(2 * i) * rate);
    for (std::int64_t p = 0; p < positions; ++p) {
      const float angle = static_cast<float>(p) * frequency;
      pe[p * width + 2 * i] = std::sin(angle);
      if (2 * i + 1 < width) pe[p * width + 2 * i + 1] = std::cos(angle);
    }
  }
  return table;
}

Tensor seeded_parameter(const Slot& slot, std::uint64_t seed, DType dtype) {
  if (slot.role == Role::positions) {
    const Tensor table = sinusoidal_positions(slot.shape[1], slot.shape[2]);
    return dtype == DType::f32 ? table : convert(table, dtype);
  }
  Tensor values(DType::f32, slot.shape);
  float* out = values.data_as<float>();
  if (slot.role == Role::mix_factor) {
    std::fill_n(out, values.numel(), 0.5f);
    return dtype == DType::f32 ? values : convert(values, dtype);
  }
  const SeededUniform uniform(seed, slot.name);
  const auto bound = static_cast<float>(
      slot.role == Role::embedding ? std::sqrt(3.0)  // variance 1
                                   : 1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(1, slot.fan_in))));
  const bool constant = slot.role == Role::norm_weight || slot.role == Role::norm_bias;
  for (std::int64_t i = 0; i < values.numel(); ++i)
    out[i] = constant ? (slot.role == Role::norm_weight ? 1.0f : 0.0f) : bound * uniform(static_cast<std::uint64_t>(i));
  return dtype == DType::f32 ? values : convert(values, dtype);
}

}  // namespace kineograph::model

#include "engine/reference/layers.h"

#include "engine/conditioning.h"

namespace kineograph::engine::reference {
namespace {

Array load(const TensorView& from) { return from ? to_doubles(from) : Array{}; }

LinearLayer load(const Linear& from) {
  if (!from.weight) return {};
  return {static_cast<std::size_t>(from.weight.size(0)), static_cast<std::size_t>(from.weight.size(1)),
          load(from.weight), load(from.bias)};
}

NormLayer load(const Norm& from) { return {load(from.weight), load(from.bias)}; }

std::vector<LinearLayer> load(const std::vector<Linear>& from) {
  std::vector<LinearLayer> layers;
  for (const Linear& linear : from) layers.push_back(load(linear));
  return layers;
}

AttentionLayer load(const Attention& from) {
  return {load(from.to_q), load(from.to_k), load(from.to_v), load(from.to_out), load(from.to_k_ip), load(from.to_v_ip)};
}

BlockLayers load(const Block& from) {
  return {load(from.norm1), load(from.norm2), load(from.norm3),  load(from.attn1),
          load(from.attn2), load(from.ff_in), load(from.ff_out), load(from.pe)};
}

// The one list of arrays: visit(array, its counterpart in another structure of the same members).

template <class A, class B, class Visit>
void each_linear(A& a, B& b, Visit&& visit) {
  visit(a.weight, b.weight);
  visit(a.bias, b.bias);
}

template <class A, class B, class Visit>
void each_attention(A& a, B& b, Visit&& visit) {
  each_linear(a.to_q, b.to_q, visit);
  each_linear(a.to_k, b.to_k, visit);
  each_linear(a.to_v, b.to_v, visit);
  each_linear(a.to_out, b.to_out, visit);
}

template <class A, class B, class Visit>
void each_array(A& a, B& b, Visit&& visit) {
  each_linear(a.norm, b.norm, visit);
  each_linear(a.proj_in, b.proj_in, visit);
  each_linear(a.proj_out, b.proj_out, visit);
  for (std::size_t i = 0; i < a.blocks.size(); ++i) {
    auto& x = a.blocks[i];
    auto& y = b.blocks[i];
    each_linear(x.norm1, y.norm1, visit);
    each_linear(x.norm2, y.norm2, visit);
    each_linear(x.norm3, y.norm3, visit);
    each_attention(x.attn1, y.attn1, visit);
    each_attention(x.attn2, y.attn2, visit);
    each_linear(x.ff_in, y.ff_in, visit);
    each_linear(x.ff_out, y.ff_out, visit);
  }
  visit(a.latent_emb, b.latent_emb);
  visit(a.latent_height_emb, b.latent_height_emb);
  visit(a.latent_width_emb, b.latent_width_emb);
  each_linear(a.norm_out, b.norm_out, visit);
  each_linear(a.out, b.out, visit);
}

}  // namespace

Layers load(const Weights& weights) {
  Layers layers;
  layers.norm = load(weights.norm);
  layers.proj_in = load(weights.proj_in);
  layers.proj_out = load(weights.proj_out);
  for (const Block& block : weights.blocks) layers.blocks.push_back(load(block));
  layers.latent_emb = load(weights.latent_emb);
  layers.latent_height_emb = load(weights.latent_height_emb);
  layers.latent_width_emb = load(weights.latent_width_emb);
  layers.norm_out = load(weights.norm_out);
  layers.out = load(weights.out);
  return layers;
}

Layers load_temporal(const Weights& weights) {
  Layers layers;
  for (const TemporalBlock& block : weights.temporal_blocks)
    layers.blocks.push_back(load(static_cast<const Block&>(block)));
  return layers;
}

std::vector<TemporalEntry> load_entries(const Weights& weights) {
  std::vector<TemporalEntry> entries;
  for (const TemporalBlock& block : weights.temporal_blocks)
    entries.push_back({load(block.norm_in), load(block.first_ff_in), load(block.first_ff_out)});
  return entries;
}

Layers zeros_like(const Layers& layers) {
  Layers zeros = layers;
  each_array(zeros, layers, [](Array& zero, const Array&) { zero.assign(zero.size(), 0.0); });
  return zeros;
}

void add(Layers& sum, const Layers& more) {
  each_array(sum, more, [](Array& a, const Array& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  });
}

void store(const Layers& gradients, const WeightGradients& to) {
  each_array(gradients, to, [](const Array& from, const MutableTensorView& view) { from_doubles(from, view); });
}

}  // namespace kineograph::engine::reference

// The weights in double, and the same shapes again for their gradients.
#pragma once

#include <vector>

#include "engine/engine.h"
#include "engine/reference/ops.h"

namespace kineograph::engine::reference {

struct NormLayer {
  Array weight, bias;
};

struct AttentionLayer {
  LinearLayer to_q, to_k, to_v, to_out;
  std::vector<LinearLayer> to_k_ip, to_v_ip;
};

struct BlockLayers {
  NormLayer norm1, norm2, norm3;
  AttentionLayer attn1, attn2;
  LinearLayer ff_in, ff_out;
  Array pe;  // (N, I) or empty
};

struct Layers {
  NormLayer norm;
  LinearLayer proj_in, proj_out;
  std::vector<BlockLayers> blocks;
  Array latent_emb, latent_height_emb, latent_width_emb;
  NormLayer norm_out;
  LinearLayer out;
};

/// The layers in front of a temporal block of TransformerSpatioTemporalModel.
struct TemporalEntry {
  NormLayer norm_in;
  LinearLayer ff_in, ff_out;  // ff_in.net.0.proj, ff_in.net.2
};

Layers load(const Weights& weights);

/// The temporal blocks alone, as the blocks of a model without projections; and the layers in front of each.
Layers load_temporal(const Weights& weights);
std::vector<TemporalEntry> load_entries(const Weights& weights);

/// Zeros of the same shapes, to add gradients to.
Layers zeros_like(const Layers& layers);

/// sum += more
void add(Layers& sum, const Layers& more);

/// Writes the gradients that are wanted. Those of conditioned norms are not in `Layers`.
void store(const Layers& gradients, const WeightGradients& to);

}  // namespace kineograph::engine::reference

#include "engine/cpu/pack/trained.h"

namespace kineograph::engine::cpu {
namespace {

TensorView transposed(const TensorView& w) {
  return {w.data(), w.dtype(), {w.size(1), w.size(0)}, {w.strides()[1], w.strides()[0]}};
}

std::size_t rows_of(const TensorView& w) { return static_cast<std::size_t>(w.size(0)); }
std::size_t cols_of(const TensorView& w) { return static_cast<std::size_t>(w.size(1)); }

TrainedLinear pack_both(const Linear& linear, const PackOptions& options) {
  const TensorView& w = linear.weight;
  return {pack_rows({{w, linear.bias, 0, rows_of(w)}}, 0, cols_of(w), options),
          pack_rows({{transposed(w), {}, 0, cols_of(w)}}, 0, rows_of(w), options)};
}

TrainedChunk pack_chunk(const Block& block, bool gated, std::size_t first, std::size_t count,
                        const PackOptions& options) {
  const TensorView &in = block.ff_in.weight, &out = block.ff_out.weight;
  const std::size_t inner = cols_of(in), hidden = cols_of(out);
  TrainedChunk chunk;
  chunk.first = first;
  chunk.count = count;
  std::vector<RowRange> rows{{in, block.ff_in.bias, first, count}};
  if (gated) rows.push_back({in, block.ff_in.bias, hidden + first, count});
  chunk.in = pack_rows(rows, 0, inner, options);
  chunk.values_transposed = pack_rows({{transposed(in), {}, 0, inner}}, first, count, options);
  if (gated) chunk.gates_transposed = pack_rows({{transposed(in), {}, 0, inner}}, hidden + first, count, options);
  chunk.out.forward =
      pack_rows({{out, first == 0 ? block.ff_out.bias : TensorView(), 0, inner}}, first, count, options);
  chunk.out.transposed = pack_rows({{transposed(out), {}, first, count}}, 0, inner, options);
  return chunk;
}

}  // namespace

TrainedModel pack_trained(const TransformerTemporalConfig& config, const Weights& weights, Arithmetic arithmetic,
                          std::size_t max_rows) {
  Slab slab(2 * packed_bytes(weights, arithmetic));
  const PackOptions options{arithmetic, max_rows, &slab};
  TrainedModel model;
  model.gated = is_gated(config.activation_fn);
  model.hidden = 4 * static_cast<std::size_t>(config.inner_dim());
  model.chunk = choose_hidden_chunk(model.hidden);
  if (config.is_discrete()) {
    model.out = pack_both(weights.out, options);
  } else {
    model.proj_in = pack_both(weights.proj_in, options);
    model.proj_out = pack_both(weights.proj_out, options);
  }
  for (const Block& block : weights.blocks) {
    TrainedBlock packed;
    for (std::size_t which = 0; which < (config.has_attn2() ? 2u : 1u); ++which) {
      const Attention& attention = which == 0 ? block.attn1 : block.attn2;
      packed.q[which] = pack_both(attention.to_q, options);
      packed.k[which] = pack_both(attention.to_k, options);
      packed.v[which] = pack_both(attention.to_v, options);
      packed.out[which] = pack_both(attention.to_out, options);
    }
    for (std::size_t first = 0; first < model.hidden; first += model.chunk)
      packed.chunks.push_back(
          pack_chunk(block, model.gated, first, std::min(model.chunk, model.hidden - first), options));
    model.blocks.push_back(std::move(packed));
  }
  return model;
}

}  // namespace kineograph::engine::cpu

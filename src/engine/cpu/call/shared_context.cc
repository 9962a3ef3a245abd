#include "engine/cpu/call/shared_context.h"

#include "engine/cpu/pack/pack.h"
#include "engine/cpu/pack/parallel.h"

namespace kineograph::engine::cpu {
namespace {

/// Projected rows (S, 2 head_dim) of one head, keys then values, as maps of queries to scores and of probabilities to
/// outputs.
void pack_head(const Buffer<float>& rows, std::size_t tokens, std::size_t head_dim, std::size_t max_rows,
               PackedLinear& keys, PackedLinear& values) {
  const auto t = static_cast<std::int64_t>(tokens), d = static_cast<std::int64_t>(head_dim);
  const TensorView key_rows(rows.data(), DType::f32, {t, d}, {2 * d, 1});
  const TensorView value_columns(rows.data() + head_dim, DType::f32, {d, t}, {1, 2 * d});
  const PackOptions options{Arithmetic::f32, max_rows};
  keys = pack_rows({{key_rows, {}, 0, tokens}}, 0, head_dim, options);
  values = pack_rows({{value_columns, {}, 0, head_dim}}, 0, tokens, options);
}

}  // namespace

void project_context(const Target& target, int threads, Call& call) {
  const PackedModel& model = *call.model;
  const std::size_t tokens = call.context_tokens, dim = call.context_dim, d = model.head_dim;
  const Buffer<float> encoder = to_floats(call.inputs->encoder_hidden_states);
  call.shared_context.resize(model.blocks.size() * call.videos);
  const std::size_t panel = 2 * target.lanes, panels = (tokens + panel - 1) / panel;
  const auto project = target.project_tokens[static_cast<int>(model.arithmetic)];
  for_each_index(threads, call.shared_context.size(), [&](std::size_t i) {
    const PackedAttention& attention = model.blocks[i / call.videos].attn[1];
    SharedContext& context = call.shared_context[i];
    context.keys.resize(model.heads);
    context.values.resize(model.heads);
    Buffer<std::uint32_t> operands(panels * pad_channels(dim) * panel);
    Buffer<float> projected(panels * attention.kv[0].rows * panel), rows(tokens * 2 * d);
    for (std::size_t head = 0; head < model.heads; ++head) {
      const PackedLinear& kv = attention.kv[head];
      project(kv, encoder.data() + i % call.videos * tokens * dim, tokens, dim, operands.data(), projected.data());
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t r = 0; r < 2 * d; ++r)
          rows[t * 2 * d + r] = projected[(t / panel * kv.rows + r) * panel + t % panel];
      pack_head(rows, tokens, d, target.max_rows, context.keys[head], context.values[head]);
    }
  });
}

}  // namespace kineograph::engine::cpu

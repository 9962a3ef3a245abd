#include "engine/cpu/spatial/context.h"

#include <algorithm>
#include <cstring>

#include "base/half.h"
#include "engine/cpu/pack/pack.h"
#include "engine/cpu/schedule/schedule.h"

namespace kineograph::engine::cpu {
namespace {

/// The first of the rows of `size` floats that is equal to row i byte by byte.
std::size_t first_equal(const Buffer<float>& values, const std::vector<std::size_t>& distinct, std::size_t i,
                        std::size_t size) {
  for (std::size_t k = 0; k < distinct.size(); ++k)
    if (std::memcmp(values.data() + distinct[k] * size, values.data() + i * size, size * sizeof(float)) == 0) return k;
  return distinct.size();
}

}  // namespace

void project_tokens(const ContextRequest& request, const PackedModel& model, const Target& target, int threads,
                    Context& context) {
  const auto extent = [&](std::size_t axis) { return static_cast<std::size_t>(request.tokens.size(axis)); };
  const std::size_t count = extent(0), tokens = extent(1), dim = extent(2), d = model.head_dim, heads = model.heads;
  const Buffer<float> values = to_floats(request.tokens);
  context.layout = KeyValueLayout(attention_arithmetic(model.arithmetic), target.max_rows, d, tokens);
  context.of_row.clear();
  std::vector<std::size_t> distinct;
  std::vector<std::size_t> index(count, count);
  for (std::size_t row = 0; row < request.rows; row += request.step) {
    const std::size_t i = row * count / request.rows;
    if (index[i] == count) {
      index[i] = first_equal(values, distinct, i, tokens * dim);
      if (index[i] == distinct.size()) distinct.push_back(i);
    }
    context.of_row.push_back(index[i]);
  }
  context.keys_values.resize(2 * request.layers);
  const std::size_t head_words = context.layout.size();
  for (const ContextLayers& layer : request.through)
    context.keys_values[layer.slot] = Buffer<std::uint32_t>::unwritten(distinct.size() * heads * head_words);
  const std::size_t panel = 2 * target.lanes, panels = (tokens + panel - 1) / panel;
  for_each_index(threads, request.through.size() * distinct.size(), [&](std::size_t i) {
    const ContextLayers& layer = request.through[i / distinct.size()];
    const std::size_t which = i % distinct.size();
    Buffer<std::uint32_t> operands(panels * pad_channels(dim) * panel);
    Buffer<float> projected(panels * 2 * pad_channels(d) * panel), rows(tokens * 2 * d);
    for (std::size_t head = 0; head < heads; ++head) {
      const PackedLinear& kv = (*layer.kv)[head];
      target.project_tokens[static_cast<int>(model.arithmetic)](kv, values.data() + distinct[which] * tokens * dim,
                                                                tokens, dim, operands.data(), projected.data());
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t r = 0; r < 2 * d; ++r)
          rows[t * 2 * d + r] = projected[(t / panel * kv.rows + r) * panel + t % panel];
      context.layout.pack(rows.data(), rows.data() + d, 2 * d,
                          context.keys_values[layer.slot].data() + (which * heads + head) * head_words);
    }
  });
}

ScoreBiases read_biases(const TensorView& view) {
  ScoreBiases biases;
  biases.view = view;
  if (!view) return biases;
  const auto& strides = view.strides();
  const auto extent = [&](std::size_t axis) {
    return static_cast<std::size_t>(strides[axis] == 0 ? 1 : view.size(axis));
  };
  if (extent(2) != 1) return biases;
  const std::size_t rows = extent(0), heads = extent(1), keys = static_cast<std::size_t>(view.size(3));
  biases.table.resize(rows * heads * keys);
  biases.head_stride = heads == 1 ? 0 : keys;
  biases.row_stride = rows == 1 ? 0 : heads * keys;
  dispatch_floating(view.dtype(), [&]<class T>(T) {
    const T* const data = static_cast<const T*>(view.data());
    for (std::size_t i = 0; i < rows * heads; ++i) {
      const T* const from =
          data + static_cast<std::int64_t>(i / heads) * strides[0] + static_cast<std::int64_t>(i % heads) * strides[1];
      const auto at = [&](std::size_t key) { return to_float(from[static_cast<std::int64_t>(key) * strides[3]]); };
      // Softmax does not change with what all scores have in common, and small numbers keep their digits.
      float most = -std::numeric_limits<float>::infinity();
      for (std::size_t key = 0; key < keys; ++key) most = std::max(most, at(key));
      if (!std::isfinite(most)) most = 0.0f;
      for (std::size_t key = 0; key < keys; ++key) biases.table[i * keys + key] = exponent_of(at(key) - most);
    }
  });
  return biases;
}

}  // namespace kineograph::engine::cpu

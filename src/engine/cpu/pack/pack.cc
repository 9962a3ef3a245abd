#include "engine/cpu/pack/pack.h"

#include <bit>
#include <cstring>
#include <map>

#include "base/half.h"
#include "base/threads.h"
#include "engine/cpu/pack/parallel.h"
#include "engine/epsilons.h"

namespace kineograph::engine::cpu {

std::size_t block_words(std::size_t rows, std::size_t words, Arithmetic arithmetic, bool biased) {
  if (arithmetic != Arithmetic::bf16_amx) return rows * words;
  return round_up(rows, kAmxRows) * (round_up(words, kAmxWords) + (biased ? kAmxWords : 0));
}

std::vector<PackedLinear::Block> cut_blocks(std::size_t rows, std::size_t words, std::size_t unit,
                                            const PackOptions& options, bool biased) {
  if (options.arithmetic == Arithmetic::bf16_amx) {
    std::vector<PackedLinear::Block> blocks;
    for (std::size_t row = 0, offset = 0; row < rows; row += kAmxBlockRows) {
      const std::size_t height = std::min(kAmxBlockRows, rows - row);
      blocks.push_back({static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(height), offset});
      offset += block_words(height, words, options.arithmetic, biased);
    }
    return blocks;
  }
  const std::size_t units = rows / unit, per_block = options.max_rows / unit;
  const std::size_t count = (units + per_block - 1) / per_block;
  std::vector<PackedLinear::Block> blocks(count);
  std::size_t row = 0, offset = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t height = (units / count + (i < units % count ? 1 : 0)) * unit;
    blocks[i] = {static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(height), offset};
    row += height;
    offset += height * words;
  }
  return blocks;
}

namespace {

/// One output row of a packed linear: where its weights come from. A null row is padding.
struct Row {
  const std::byte* weights = nullptr;
  std::int64_t stride = 1;  // between columns
  DType dtype = DType::f32;
  float bias = 0.0f;
};

float element(const TensorView& view, std::int64_t offset) {
  return dispatch_floating(view.dtype(),
                           [&]<class T>(T) { return to_float(static_cast<const T*>(view.data())[offset]); });
}

std::vector<Row> rows_of(const RowRange& range, std::size_t first_col) {
  const TensorView& w = range.weight;
  std::vector<Row> rows(range.count);
  for (std::size_t i = 0; i < range.count; ++i) {
    const auto row = static_cast<std::int64_t>(range.first + i);
    const std::int64_t offset = row * w.strides()[0] + static_cast<std::int64_t>(first_col) * w.strides()[1];
    rows[i].weights = static_cast<const std::byte*>(w.data()) + offset * static_cast<std::int64_t>(size_of(w.dtype()));
    rows[i].stride = w.strides()[1];
    rows[i].dtype = w.dtype();
    if (range.bias) rows[i].bias = element(range.bias, row * range.bias.strides()[0]);
  }
  return rows;
}

/// Reads columns [first, first + count) of a row as floats.
void read_columns(const Row& row, std::size_t first, std::size_t count, float* out) {
  if (row.weights == nullptr) {
    std::fill_n(out, count, 0.0f);
    return;
  }
  dispatch_floating(row.dtype, [&]<class T>(T) {
    const T* from = reinterpret_cast<const T*>(row.weights) + static_cast<std::int64_t>(first) * row.stride;
    if (row.stride == 1)
      for (std::size_t i = 0; i < count; ++i) out[i] = to_float(from[i]);
    else
      for (std::size_t i = 0; i < count; ++i) out[i] = to_float(from[static_cast<std::int64_t>(i) * row.stride]);
  });
}

/// Rows into registers of the matrix unit: biases, then [word / 16][row][16 words].
void pack_amx_block(const std::vector<Row>& rows, const PackedLinear::Block& block, std::size_t cols, bool biased,
                    std::uint32_t* out) {
  const Row padding;
  for (std::size_t i = 0; biased && i < round_up(block.rows, kAmxRows); ++i)
    out = std::fill_n(out, kAmxWords, std::bit_cast<std::uint32_t>(i < block.rows ? rows[block.row + i].bias : 0.0f));
  for (std::size_t first = 0; first < cols; first += 2 * kAmxWords)
    for (std::size_t i = 0; i < round_up(block.rows, kAmxRows); ++i) {
      float strip[2 * kAmxWords] = {};
      const Row& row = i < block.rows ? rows[block.row + i] : padding;
      read_columns(row, first, std::min(2 * kAmxWords, cols - first), strip);
      for (std::size_t k = 0; k < 2 * kAmxWords; k += 2)
        *out++ = to_bf16(strip[k]).bits | static_cast<std::uint32_t>(to_bf16(strip[k + 1]).bits) << 16;
    }
}

/// Transposes rows into a block's [word][row], a strip of columns at a time.
void pack_block(const std::vector<Row>& rows, const PackedLinear::Block& block, std::size_t cols, bool pairs,
                std::uint32_t* out) {
  constexpr std::size_t kStrip = 64;
  float strip[16][kStrip];
  for (std::size_t first = 0; first < cols; first += kStrip) {
    const std::size_t count = std::min(kStrip, cols - first);
    const std::size_t padded = pad_channels(count);
    for (std::size_t i = 0; i < block.rows; ++i) {
      strip[i][padded - 1] = 0.0f;
      read_columns(rows[block.row + i], first, count, strip[i]);
    }
    if (pairs) {
      for (std::size_t k = 0; k < padded; k += 2)
        for (std::size_t i = 0; i < block.rows; ++i)
          *out++ = to_bf16(strip[i][k]).bits | static_cast<std::uint32_t>(to_bf16(strip[i][k + 1]).bits) << 16;
    } else {
      for (std::size_t k = 0; k < padded; ++k)
        for (std::size_t i = 0; i < block.rows; ++i) *out++ = std::bit_cast<std::uint32_t>(strip[i][k]);
    }
  }
}

PackedLinear pack(std::vector<Row> rows, std::size_t cols, std::size_t unit, const PackOptions& options) {
  const bool pairs = options.arithmetic != Arithmetic::f32;
  PackedLinear linear;
  rows.resize(round_up(rows.size(), unit));
  linear.rows = rows.size();
  linear.cols = pad_channels(cols);
  linear.words = pairs ? linear.cols / 2 : linear.cols;
  const bool tiles = options.arithmetic == Arithmetic::bf16_amx;
  linear.biased = tiles && std::any_of(rows.begin(), rows.end(), [](const Row& row) { return row.bias != 0.0f; });
  linear.blocks = cut_blocks(linear.rows, linear.words, unit, options, linear.biased);
  linear.weights = Buffer<std::uint32_t>::unwritten(
      block_words(linear.rows, linear.words, options.arithmetic, linear.biased), options.slab);
  if (!tiles) {
    linear.bias = Buffer<float>(linear.rows);
    for (std::size_t i = 0; i < rows.size(); ++i) linear.bias[i] = rows[i].bias;
  }
  const auto pack_one = [&](std::size_t i) {
    std::uint32_t* const to = linear.weights.data() + linear.blocks[i].offset;
    if (tiles)
      pack_amx_block(rows, linear.blocks[i], cols, linear.biased, to);
    else
      pack_block(rows, linear.blocks[i], cols, pairs, to);
  };
  // Isolated: packing for training happens under a lock. On one thread without oneTBB, which a forked child has not.
  if (host().region == nullptr && thread_count(0) == 1)
    for (std::size_t i = 0; i < linear.blocks.size(); ++i) pack_one(i);
  else
    spread_isolated(linear.blocks.size(), pack_one);
  return linear;
}

RowRange whole(const Linear& linear) {
  return {linear.weight, linear.bias, 0, static_cast<std::size_t>(linear.weight.size(0))};
}

RowRange part(const Linear& linear, std::size_t first, std::size_t count) {
  return {linear.weight, linear.bias, first, count};
}

PackedLinear pack_whole(const Linear& linear, const PackOptions& options) {
  return pack_rows({whole(linear)}, 0, static_cast<std::size_t>(linear.weight.size(1)), options);
}

Buffer<float> filled(std::size_t count, float value) {
  Buffer<float> buffer(count);
  std::fill_n(buffer.data(), count, value);
  return buffer;
}

Buffer<float> or_filled(const TensorView& view, std::size_t count, float value) {
  return view ? to_floats(view) : filled(count, value);
}

void pack_attention(const Attention& attention, const PackedModel& model, PackedAttention& packed,
                    const PackOptions& options) {
  const std::size_t d = model.head_dim;
  const auto width = static_cast<std::size_t>(attention.to_k.weight.size(1));
  for (std::size_t head = 0; head < model.heads; ++head) {
    const auto rows = [&](const Linear& linear) { return part(linear, head * d, d); };
    packed.query.push_back(pack_rows({rows(attention.to_q)}, 0, model.inner, options));
    packed.kv.push_back(pack_rows({rows(attention.to_k), rows(attention.to_v)}, 0, width, options));
  }
  packed.out = pack_whole(attention.to_out, options);
  packed.out_bias = or_filled(attention.to_out.bias, model.inner, 0.0f);
}

void pack_norm(const Norm& norm, std::size_t inner, std::size_t which, PackedBlock& packed) {
  packed.norm_scale[which] = or_filled(norm.weight, inner, 1.0f);
  packed.norm_shift[which] = or_filled(norm.bias, inner, 0.0f);
}

/// Blocks whose tables lie in one place share one: a configuration may ask for many layers of very many positions.
void pack_positions(const std::vector<Block>& blocks, PackedModel& model) {
  std::map<const void*, const float*> packed;
  for (std::size_t layer = 0; layer < blocks.size(); ++layer) {
    const TensorView& pe = blocks[layer].pe;
    if (!pe) continue;
    const float*& table = packed[pe.data()];
    if (table == nullptr) table = model.position_tables.emplace_back(to_floats(pe)).data();
    model.blocks[layer].positions = table;
  }
}

PackedFeedForward pack_feed_forward(const Linear& in, const Linear& out, const PackedModel& model,
                                    const PackOptions& options) {
  const bool gated = is_gated(model.config.activation_fn);
  const auto hidden = static_cast<std::size_t>(out.weight.size(1));
  PackedFeedForward packed;
  for (std::size_t first = 0; first < hidden; first += model.hidden_chunk) {
    const std::size_t count = std::min(model.hidden_chunk, hidden - first);
    packed.in.push_back(gated
                            ? pack_gated(part(in, first, count), part(in, hidden + first, count), model.inner, options)
                            : pack_rows({part(in, first, count)}, 0, model.inner, options));
    RowRange rows = whole(out);
    if (first != 0) rows.bias = {};
    packed.out.push_back(pack_rows({rows}, first, count, options));
  }
  return packed;
}

}  // namespace

std::size_t choose_hidden_chunk(std::size_t hidden) {
  constexpr std::size_t kTarget = 320;
  const std::size_t chunks = std::max<std::size_t>(1, (hidden + kTarget / 2) / kTarget);
  return round_up((hidden + chunks - 1) / chunks, 4);
}

Buffer<float> to_floats(const TensorView& view) {
  const Tensor floats = convert(view, DType::f32);
  Buffer<float> buffer(static_cast<std::size_t>(floats.numel()));
  std::copy_n(floats.data_as<float>(), buffer.size(), buffer.data());
  return buffer;
}

PackedLinear pack_rows(const std::vector<RowRange>& ranges, std::size_t first_col, std::size_t cols,
                       const PackOptions& options) {
  std::vector<Row> rows;
  for (const RowRange& range : ranges) {
    const std::vector<Row> more = rows_of(range, first_col);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  return pack(std::move(rows), cols, 2, options);
}

PackedLinear pack_gated(const RowRange& values, const RowRange& gates, std::size_t cols, const PackOptions& options) {
  // bf16 pairs are made of two columns of one block, so that a block has an even number of values there.
  const std::size_t unit = is_paired(options.arithmetic) ? 4 : 2;
  std::vector<Row> value_rows = rows_of(values, 0), gate_rows = rows_of(gates, 0);
  value_rows.resize(round_up(value_rows.size(), unit / 2));
  gate_rows.resize(value_rows.size());
  std::vector<Row> rows;
  for (const auto& block : cut_blocks(2 * value_rows.size(), 0, unit, options)) {
    const auto first = static_cast<std::ptrdiff_t>(block.row / 2), count = static_cast<std::ptrdiff_t>(block.rows / 2);
    rows.insert(rows.end(), value_rows.begin() + first, value_rows.begin() + first + count);
    rows.insert(rows.end(), gate_rows.begin() + first, gate_rows.begin() + first + count);
  }
  return pack(std::move(rows), cols, unit, options);
}

std::size_t packed_bytes(const Weights& weights, Arithmetic arithmetic) {
  std::size_t count = 0;
  each_linear(weights, [&](const Linear& linear) {
    if (!linear.weight) return;
    const auto extent = [&](std::size_t axis) { return static_cast<std::size_t>(linear.weight.size(axis)); };
    count += arithmetic == Arithmetic::bf16_amx ? round_up(extent(0), kAmxRows) * round_up(extent(1), 2 * kAmxWords)
                                                : pad_channels(extent(0)) * pad_channels(extent(1));
  });
  if (arithmetic == Arithmetic::bf16_amx) count += count / 8;  // biases, and registers that heads fill in part
  return count * (arithmetic == Arithmetic::f32 ? 4 : 2);
}

PackedModel pack_model(const TransformerTemporalConfig& config, const Weights& weights, Arithmetic arithmetic,
                       std::size_t max_rows) {
  // Layers lie in the order of a walk: each reads ahead the words behind it.
  Slab slab(packed_bytes(weights, arithmetic));
  const PackOptions options{arithmetic, max_rows, &slab};
  PackedModel model;
  model.config = config;
  model.arithmetic = arithmetic;
  model.heads = static_cast<std::size_t>(config.num_attention_heads);
  model.head_dim = static_cast<std::size_t>(config.attention_head_dim);
  model.inner = static_cast<std::size_t>(config.inner_dim());
  model.hidden_chunk = choose_hidden_chunk(4 * model.inner);
  if (config.is_discrete()) {
    model.latent_emb = to_floats(weights.latent_emb);
    model.latent_height_emb = to_floats(weights.latent_height_emb);
    model.latent_width_emb = to_floats(weights.latent_width_emb);
    model.norm_out_scale = or_filled(weights.norm_out.weight, model.inner, 1.0f);
    model.norm_out_shift = or_filled(weights.norm_out.bias, model.inner, 0.0f);
    model.out = pack_whole(weights.out, options);
  } else {
    model.channels = static_cast<std::size_t>(weights.proj_in.weight.size(1));
    model.norm_weight = or_filled(weights.norm.weight, model.channels, 1.0f);
    model.norm_bias = or_filled(weights.norm.bias, model.channels, 0.0f);
    model.proj_in = pack_whole(weights.proj_in, options);
  }
  for (const Block& block : weights.blocks) {
    PackedBlock packed;
    const Norm* const norms[] = {&block.norm1, &block.norm2, &block.norm3};
    for (std::size_t which = 0; which < 3; ++which) pack_norm(*norms[which], model.inner, which, packed);
    for (std::size_t which = 0; which < 3; ++which)
      packed.norm_epsilon[which] = static_cast<float>(norm_epsilon(config, which));
    pack_attention(block.attn1, model, packed.attn[0], options);
    if (config.has_attn2()) pack_attention(block.attn2, model, packed.attn[1], options);
    packed.ff = pack_feed_forward(block.ff_in, block.ff_out, model, options);
    model.blocks.push_back(std::move(packed));
  }
  pack_positions(weights.blocks, model);
  if (!config.is_discrete()) model.proj_out = pack_whole(weights.proj_out, options);
  return model;
}

PackedModel pack_temporal_blocks(const TransformerTemporalConfig& config, const Weights& weights, Arithmetic arithmetic,
                                 std::size_t max_rows) {
  Weights clips = weights;
  clips.blocks.assign(weights.temporal_blocks.begin(), weights.temporal_blocks.end());
  clips.temporal_blocks.clear();
  PackedModel model = pack_model(config, clips, arithmetic, max_rows);
  for (std::size_t layer = 0; layer < model.blocks.size(); ++layer) {
    const TemporalBlock& block = weights.temporal_blocks[layer];
    PackedBlock& packed = model.blocks[layer];
    pack_norm(block.norm_in, model.inner, 3, packed);
    packed.norm_epsilon[3] = static_cast<float>(config.norm_eps);
    packed.entry = pack_feed_forward(block.first_ff_in, block.first_ff_out, model, {arithmetic, max_rows});
  }
  return model;
}

}  // namespace kineograph::engine::cpu

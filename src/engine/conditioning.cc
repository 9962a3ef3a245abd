#include "engine/conditioning.h"

#include <cmath>

#include "base/half.h"

namespace kineograph::engine {
namespace {

using Vector = std::vector<double>;

double silu(double x) { return x / (1.0 + std::exp(-x)); }

Vector silu(Vector x) {
  for (double& v : x) v = silu(v);
  return x;
}

/// y (N) = W (N, K) x (K) + b
Vector linear(const Linear& layer, const Vector& x) {
  const std::int64_t rows = layer.weight.size(0), cols = layer.weight.size(1);
  Vector y(static_cast<std::size_t>(rows));
  dispatch_floating(layer.weight.dtype(), [&]<class T>(T) {
    for (std::int64_t n = 0; n < rows; ++n) {
      const T* row = static_cast<const T*>(layer.weight.data()) + n * cols;
      double sum = layer.bias ? element(layer.bias, n) : 0.0;
      for (std::int64_t k = 0; k < cols; ++k) {
        if constexpr (std::is_same_v<T, double>)
          sum += row[k] * x[static_cast<std::size_t>(k)];
        else
          sum += static_cast<double>(to_float(row[k])) * x[static_cast<std::size_t>(k)];
      }
      y[static_cast<std::size_t>(n)] = sum;
    }
  });
  return y;
}

/// Row `index` of a table (N, I).
Vector table_row(const TensorView& table, std::int64_t index) {
  Vector row(static_cast<std::size_t>(table.size(1)));
  for (std::size_t c = 0; c < row.size(); ++c)
    row[c] = element(table, index * table.size(1) + static_cast<std::int64_t>(c));
  return row;
}

/// get_timestep_embedding(timestep, 256, flip_sin_to_cos=True, downscale_freq_shift=1): 128 cosines, then 128 sines.
/// f32 throughout, as diffusers computes it in any model; a double here would differ from it by what f32 rounds off.
Vector timestep_sinusoid(double timestep) {
  constexpr int kHalf = 128;
  const auto t = static_cast<float>(timestep);
  Vector embedding(2 * kHalf);
  for (int i = 0; i < kHalf; ++i) {
    const float exponent =
        static_cast<float>(-std::log(10000.0)) * static_cast<float>(i) / static_cast<float>(kHalf - 1);
    const float angle = t * std::exp(exponent);
    embedding[static_cast<std::size_t>(i)] = static_cast<double>(std::cos(angle));
    embedding[static_cast<std::size_t>(kHalf + i)] = static_cast<double>(std::sin(angle));
  }
  return embedding;
}

/// Chunk `index` of `count` equal ones.
Vector chunk(const Vector& values, std::size_t count, std::size_t index) {
  const std::size_t width = values.size() / count;
  const auto first = values.begin() + static_cast<std::ptrdiff_t>(index * width);
  return Vector(first, first + static_cast<std::ptrdiff_t>(width));
}

/// AdaLayerNorm: (scale, shift) = linear(silu(emb[timestep])).
void ada_layer_norm(const AdaNorm& norm, double timestep, Vector& scale, Vector& shift) {
  const Vector both = linear(norm.linear, silu(table_row(norm.emb, static_cast<std::int64_t>(timestep))));
  scale = chunk(both, 2, 0);
  shift = chunk(both, 2, 1);
}

/// AdaLayerNormZero: six vectors from the embedded timestep plus the label's row.
void ada_layer_norm_zero(const AdaNorm& norm, double timestep, std::int64_t label, BlockConditioning& out) {
  Vector embedding = linear(norm.timestep_linear_2, silu(linear(norm.timestep_linear_1, timestep_sinusoid(timestep))));
  const Vector label_row = table_row(norm.class_table, label);
  for (std::size_t c = 0; c < embedding.size(); ++c) embedding[c] += label_row[c];
  const Vector six = linear(norm.linear, silu(embedding));
  out.norm1_shift = chunk(six, 6, 0);
  out.norm1_scale = chunk(six, 6, 1);
  out.gate_attn1 = chunk(six, 6, 2);
  out.norm3_shift = chunk(six, 6, 3);
  out.norm3_scale = chunk(six, 6, 4);
  out.gate_ff = chunk(six, 6, 5);
}

}  // namespace

double element(const TensorView& view, std::int64_t i) {
  return dispatch_floating(view.dtype(), [&]<class T>(T) {
    if constexpr (std::is_same_v<T, double>)
      return static_cast<const double*>(view.data())[i];
    else
      return static_cast<double>(to_float(static_cast<const T*>(view.data())[i]));
  });
}

std::vector<double> to_doubles(const TensorView& view) {
  const Tensor doubles = convert(view, DType::f64);
  const auto* first = static_cast<const double*>(doubles.data());
  return std::vector<double>(first, first + doubles.numel());
}

Conditioning compute_conditioning(const TransformerTemporalConfig& config, const Weights& weights,
                                  const Inputs& inputs) {
  const auto videos = static_cast<std::size_t>(inputs.num_videos);
  Conditioning result(weights.blocks.size(), videos);
  for (std::size_t layer = 0; layer < weights.blocks.size(); ++layer)
    for (std::size_t video = 0; video < videos; ++video) {
      const Block& block = weights.blocks[layer];
      BlockConditioning& out = result.at(layer, video);
      if (config.norm_type == NormType::ada_norm) {
        ada_layer_norm(block.ada_norm1, inputs.timestep[video], out.norm1_scale, out.norm1_shift);
        if (config.has_attn2())
          ada_layer_norm(block.ada_norm2, inputs.timestep[video], out.norm2_scale, out.norm2_shift);
      } else if (config.norm_type == NormType::ada_norm_zero) {
        ada_layer_norm_zero(block.ada_norm1, inputs.timestep[video], inputs.class_labels[video], out);
      }
    }
  return result;
}

}  // namespace kineograph::engine

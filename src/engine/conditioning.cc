#include "engine/conditioning.h"

#include <cmath>

#include "base/half.h"

namespace kineograph::engine {
namespace {

using Vector = std::vector<double>;

double to_double(double x) { return x; }
template <class T>
double to_double(T x) {
  return static_cast<double>(to_float(x));
}

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
      for (std::int64_t k = 0; k < cols; ++k) sum += to_double(row[k]) * x[static_cast<std::size_t>(k)];
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

/// get_timestep_embedding(timestep, width, flip_sin_to_cos=True, downscale_freq_shift=shift): width / 2 cosines, as
/// many sines, and a zero for an odd width. f32 throughout, as diffusers computes it in any model; a double here would
/// differ from it by what f32 rounds off.
Vector timestep_sinusoid(double timestep, std::size_t width = 256, std::size_t shift = 1) {
  const std::size_t half = width / 2;
  const auto t = static_cast<float>(timestep);
  Vector embedding(width);
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent =
        static_cast<float>(-std::log(10000.0)) * static_cast<float>(i) / static_cast<float>(half - shift);
    const float angle = t * std::exp(exponent);
    embedding[i] = static_cast<double>(std::cos(angle));
    embedding[half + i] = static_cast<double>(std::sin(angle));
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

// Backward. d_ marks the gradient of the loss by a value.

Vector silu_backward(const Vector& x, Vector d_y) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double s = 1.0 / (1.0 + std::exp(-x[i]));
    d_y[i] *= s * (1.0 + x[i] * (1.0 - s));
  }
  return d_y;
}

/// Sums of gradients for one linear layer.
struct LinearSums {
  Vector weight, bias;
  explicit LinearSums(const Linear& layer)
      : weight(static_cast<std::size_t>(layer.weight ? layer.weight.numel() : 0)),
        bias(static_cast<std::size_t>(layer.bias ? layer.bias.numel() : 0)) {}
  void store(const LinearOf<MutableTensorView>& to) const {
    from_doubles(weight, to.weight);
    from_doubles(bias, to.bias);
  }
};

/// d_x (K) of y = W x + b; adds to the sums.
Vector linear_backward(const Linear& layer, const Vector& x, const Vector& d_y, LinearSums& sums) {
  Vector d_x(x.size());
  dispatch_floating(layer.weight.dtype(), [&]<class T>(T) {
    const T* row = static_cast<const T*>(layer.weight.data());
    double* sum = sums.weight.data();
    for (std::size_t n = 0; n < d_y.size(); ++n, row += x.size(), sum += x.size())
      for (std::size_t k = 0; k < x.size(); ++k) {
        d_x[k] += d_y[n] * to_double(row[k]);
        sum[k] += d_y[n] * x[k];
      }
  });
  if (!sums.bias.empty())
    for (std::size_t n = 0; n < d_y.size(); ++n) sums.bias[n] += d_y[n];
  return d_x;
}

/// The vectors end to end, `width` zeros for an empty one.
Vector concatenate(std::initializer_list<const Vector*> parts, std::size_t width) {
  Vector all;
  for (const Vector* part : parts) {
    if (part->empty())
      all.insert(all.end(), width, 0.0);
    else
      all.insert(all.end(), part->begin(), part->end());
  }
  return all;
}

void add_row(Vector& table, std::int64_t row, const Vector& d_row) {
  for (std::size_t c = 0; c < d_row.size(); ++c) table[static_cast<std::size_t>(row) * d_row.size() + c] += d_row[c];
}

void ada_layer_norm_backward(const AdaNorm& norm, const Inputs& inputs, const std::vector<Vector>& d_both,
                             const AdaNormOf<MutableTensorView>& gradients) {
  Vector d_emb(static_cast<std::size_t>(norm.emb.numel()));
  LinearSums d_linear(norm.linear);
  for (std::size_t video = 0; video < d_both.size(); ++video) {
    const auto timestep = static_cast<std::int64_t>(inputs.timestep[video]);
    const Vector row = table_row(norm.emb, timestep);
    add_row(d_emb, timestep, silu_backward(row, linear_backward(norm.linear, silu(row), d_both[video], d_linear)));
  }
  from_doubles(d_emb, gradients.emb);
  d_linear.store(gradients.linear);
}

void ada_layer_norm_zero_backward(const AdaNorm& norm, const Inputs& inputs, const std::vector<Vector>& d_six,
                                  const AdaNormOf<MutableTensorView>& gradients) {
  Vector d_table(static_cast<std::size_t>(norm.class_table.numel()));
  LinearSums d_linear(norm.linear), d_linear_1(norm.timestep_linear_1), d_linear_2(norm.timestep_linear_2);
  for (std::size_t video = 0; video < d_six.size(); ++video) {
    const Vector sinusoid = timestep_sinusoid(inputs.timestep[video]);
    const Vector first = linear(norm.timestep_linear_1, sinusoid);
    Vector embedding = linear(norm.timestep_linear_2, silu(first));
    const Vector label = table_row(norm.class_table, inputs.class_labels[video]);
    for (std::size_t c = 0; c < embedding.size(); ++c) embedding[c] += label[c];
    const Vector d_embedding =
        silu_backward(embedding, linear_backward(norm.linear, silu(embedding), d_six[video], d_linear));
    add_row(d_table, inputs.class_labels[video], d_embedding);
    linear_backward(norm.timestep_linear_1, sinusoid,
                    silu_backward(first, linear_backward(norm.timestep_linear_2, silu(first), d_embedding, d_linear_2)),
                    d_linear_1);
  }
  from_doubles(d_table, gradients.class_table);
  d_linear.store(gradients.linear);
  d_linear_1.store(gradients.timestep_linear_1);
  d_linear_2.store(gradients.timestep_linear_2);
}

void add(Vector& sum, const Vector& more) {
  if (more.empty()) return;
  sum.resize(more.size());
  for (std::size_t i = 0; i < more.size(); ++i) sum[i] += more[i];
}

}  // namespace

void add(BlockConditioning& sum, const BlockConditioning& more) {
  for (const auto member :
       {&BlockConditioning::norm1_scale, &BlockConditioning::norm1_shift, &BlockConditioning::norm2_scale,
        &BlockConditioning::norm2_shift, &BlockConditioning::norm3_scale, &BlockConditioning::norm3_shift,
        &BlockConditioning::gate_attn1, &BlockConditioning::gate_ff})
    add(sum.*member, more.*member);
}

double element(const TensorView& view, std::int64_t i) {
  return dispatch_floating(view.dtype(), [&]<class T>(T) { return to_double(static_cast<const T*>(view.data())[i]); });
}

std::vector<double> to_doubles(const TensorView& view) {
  const Tensor doubles = convert(view, DType::f64);
  const auto* first = static_cast<const double*>(doubles.data());
  return std::vector<double>(first, first + doubles.numel());
}

void from_doubles(const std::vector<double>& values, const MutableTensorView& view) {
  if (!view) return;
  // An odometer over the view's axes.
  Dims at(view.shape());
  for (std::size_t axis = 0; axis < view.rank(); ++axis) at[axis] = 0;
  for (const double value : values) {
    std::int64_t offset = 0;
    for (std::size_t axis = 0; axis < view.rank(); ++axis) offset += at[axis] * view.strides()[axis];
    dispatch_floating(view.dtype(), [&]<class T>(T) {
      if constexpr (std::is_same_v<T, double>)
        static_cast<double*>(view.data())[offset] = value;
      else
        static_cast<T*>(view.data())[offset] = from_float<T>(static_cast<float>(value));
    });
    for (std::size_t axis = view.rank(); axis-- > 0;) {
      if (++at[axis] < view.size(axis)) break;
      at[axis] = 0;
    }
  }
}

Conditioning compute_conditioning(const TransformerConfig& config, const Weights& weights, const Inputs& inputs) {
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

std::vector<double> frame_embeddings(const Weights& weights, std::int64_t num_frames) {
  const auto channels = static_cast<std::size_t>(weights.time_pos_embed_1.weight.size(1));
  Vector all;
  for (std::int64_t frame = 0; frame < num_frames; ++frame) {
    const Vector sinusoid = timestep_sinusoid(static_cast<double>(frame), channels, 0);
    const Vector row = linear(weights.time_pos_embed_2, silu(linear(weights.time_pos_embed_1, sinusoid)));
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

std::vector<double> spatial_shares(const Weights& weights, const Inputs& inputs) {
  const double blended = 1.0 / (1.0 + std::exp(-element(weights.mix_factor, 0)));
  Vector shares;
  for (const bool image_only : inputs.image_only) shares.push_back(image_only ? 1.0 : blended);
  return shares;
}

void conditioning_backward(const TransformerConfig& config, const Weights& weights, const Inputs& inputs,
                           const Conditioning& d_conditioning, const WeightGradients& gradients) {
  if (config.norm_type == NormType::layer_norm) return;
  const auto videos = static_cast<std::size_t>(inputs.num_videos);
  const auto inner = static_cast<std::size_t>(config.inner_dim());
  for (std::size_t layer = 0; layer < weights.blocks.size(); ++layer) {
    const Block& block = weights.blocks[layer];
    const BlockOf<MutableTensorView>& to = gradients.blocks[layer];
    std::vector<Vector> first, second;
    for (std::size_t video = 0; video < videos; ++video) {
      const BlockConditioning& d = d_conditioning.at(layer, video);
      if (config.norm_type == NormType::ada_norm_zero) {
        first.push_back(concatenate(
            {&d.norm1_shift, &d.norm1_scale, &d.gate_attn1, &d.norm3_shift, &d.norm3_scale, &d.gate_ff}, inner));
      } else {
        first.push_back(concatenate({&d.norm1_scale, &d.norm1_shift}, inner));
        second.push_back(concatenate({&d.norm2_scale, &d.norm2_shift}, inner));
      }
    }
    if (config.norm_type == NormType::ada_norm_zero) {
      ada_layer_norm_zero_backward(block.ada_norm1, inputs, first, to.ada_norm1);
    } else {
      ada_layer_norm_backward(block.ada_norm1, inputs, first, to.ada_norm1);
      if (config.has_attn2()) ada_layer_norm_backward(block.ada_norm2, inputs, second, to.ada_norm2);
    }
  }
}

}  // namespace kineograph::engine

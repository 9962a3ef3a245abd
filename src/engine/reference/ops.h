// The operations of the model as plain loops over doubles: the definition that every other engine is held to.
//
// Shapes are row-major. T tokens, N outputs, K inputs, F frames, S keys, d head_dim. Beside each operation stands its
// backward: `d_` marks the gradient of the loss by a value, of the value's shape. Gradients of weights are added to.
#pragma once

#include <cstddef>
#include <vector>

#include "kineograph/config.h"
#include "kineograph/tensor.h"

namespace kineograph::engine::reference {

using Array = std::vector<double>;

/// y = x W^T + b, weights already in double: weight (N, K), bias (N) or empty.
struct LinearLayer {
  std::size_t rows = 0, cols = 0;
  Array weight, bias;
};

/// Mean and variance (biased) of `count` values, in two passes: exact when the mean is large.
struct MeanVariance {
  double mean = 0.0, variance = 0.0;
};

/// y (T, N) = x (T, K) W^T + b
Array linear(const LinearLayer& layer, const Array& x, std::size_t tokens);
/// d_x (T, K) = d_y W; d_layer.weight += d_y^T x, d_layer.bias += the sum of d_y's rows.
Array linear_backward(const LinearLayer& layer, const Array& x, const Array& d_y, std::size_t tokens,
                      LinearLayer& d_layer);

/// y (T, K) = (x - mean) / sqrt(variance + epsilon) * weight + bias, over each row; empty weight or bias: none.
Array layer_norm(const Array& x, std::size_t tokens, std::size_t width, const Array& weight, const Array& bias,
                 double epsilon);
/// d_x (T, K); d_weight and d_bias (K) are added to unless empty.
/// With h = (x - mean) r, r = 1 / sqrt(variance + epsilon) and g = d_y weight: d_x = r (g - mean(g) - h mean(g h)).
Array layer_norm_backward(const Array& x, const Array& d_y, std::size_t tokens, std::size_t width, const Array& weight,
                          double epsilon, Array& d_weight, Array& d_bias);

/// Biases of the scores of one head of one row; a default-made one adds nothing.
class ScoreBias {
 public:
  ScoreBias() = default;
  /// Of a view (rows, heads, queries, keys), or of none.
  ScoreBias(const TensorView& view, std::int64_t row, std::int64_t head);
  double operator()(std::size_t query, std::size_t key) const;

 private:
  const TensorView* view_ = nullptr;
  std::int64_t offset_ = 0;
};

/// Attention of one head of one sequence: out[f] = sum_s softmax_s(scale * q[f] . k[s] + bias[f, s]) v[s]; zeros where
/// every score is -inf. `*_stride` is the distance between tokens.
void attend(const double* q, std::size_t q_stride, std::size_t queries, const double* k, const double* v,
            std::size_t kv_stride, std::size_t keys, std::size_t head_dim, double scale, double* out,
            std::size_t out_stride, const ScoreBias& bias = {});
/// Adds to d_q, d_k and d_v. With p = softmax(scale q k) and dp = d_out . v: d_v += p d_out,
/// ds = p (dp - sum(p dp)), d_q += scale ds k, d_k += scale ds q.
void attend_backward(const double* q, std::size_t q_stride, std::size_t queries, const double* k, const double* v,
                     std::size_t kv_stride, std::size_t keys, std::size_t head_dim, double scale, const double* d_out,
                     double* d_q, double* d_k, double* d_v);

/// The activation between ff.net.0.proj and ff.net.2: (T, P) -> (T, 4I) with P = 8I for the gated kinds (values first,
/// gates second), else 4I.
Array activate(Activation kind, const Array& projected, std::size_t tokens, std::size_t hidden);
/// d_projected (T, P) of d_y (T, 4I).
Array activate_backward(Activation kind, const Array& projected, const Array& d_y, std::size_t tokens,
                        std::size_t hidden);

/// x - max - log(sum(exp(x - max))) over each row (T, K).
Array log_softmax(const Array& x, std::size_t tokens, std::size_t width);
/// d_x = d_y - exp(y) sum(d_y), of the output y.
Array log_softmax_backward(const Array& y, const Array& d_y, std::size_t tokens, std::size_t width);

}  // namespace kineograph::engine::reference

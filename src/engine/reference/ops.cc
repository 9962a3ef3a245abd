#include "engine/reference/ops.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kineograph::engine::reference {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }

double gelu_tanh(double x) {
  constexpr double kSqrt2OverPi = 0.79788456080286535588;
  return 0.5 * x * (1.0 + std::tanh(kSqrt2OverPi * (x + 0.044715 * x * x * x)));
}

double activation(Activation kind, double x) {
  switch (kind) {
    case Activation::geglu:
    case Activation::gelu:
      return gelu_erf(x);
    case Activation::gelu_approximate:
      return gelu_tanh(x);
    case Activation::geglu_approximate:
      return x * sigmoid(1.702 * x);
    case Activation::swiglu:
    case Activation::linear_silu:
      return x * sigmoid(x);
  }
  return x;
}

}  // namespace

Array linear(const LinearLayer& layer, const Array& x, std::size_t tokens) {
  Array y(tokens * layer.rows);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t n = 0; n < layer.rows; ++n) {
      const double* row = layer.weight.data() + n * layer.cols;
      const double* in = x.data() + t * layer.cols;
      double sum = 0.0;
      for (std::size_t k = 0; k < layer.cols; ++k) sum += in[k] * row[k];
      y[t * layer.rows + n] = sum + (layer.bias.empty() ? 0.0 : layer.bias[n]);
    }
  return y;
}

Array layer_norm(const Array& x, std::size_t tokens, std::size_t width, const Array& weight, const Array& bias,
                 double epsilon) {
  Array y(x.size());
  for (std::size_t t = 0; t < tokens; ++t) {
    const double* in = x.data() + t * width;
    MeanVariance m;
    for (std::size_t c = 0; c < width; ++c) m.mean += in[c];
    m.mean /= static_cast<double>(width);
    for (std::size_t c = 0; c < width; ++c) m.variance += (in[c] - m.mean) * (in[c] - m.mean);
    m.variance /= static_cast<double>(width);
    const double inverse = 1.0 / std::sqrt(m.variance + epsilon);
    for (std::size_t c = 0; c < width; ++c)
      y[t * width + c] =
          (in[c] - m.mean) * inverse * (weight.empty() ? 1.0 : weight[c]) + (bias.empty() ? 0.0 : bias[c]);
  }
  return y;
}

void attend(const double* q, std::size_t q_stride, std::size_t queries, const double* k, const double* v,
            std::size_t kv_stride, std::size_t keys, std::size_t head_dim, double scale, double* out,
            std::size_t out_stride) {
  Array scores(keys);
  for (std::size_t f = 0; f < queries; ++f) {
    for (std::size_t s = 0; s < keys; ++s) {
      double sum = 0.0;
      for (std::size_t e = 0; e < head_dim; ++e) sum += q[f * q_stride + e] * k[s * kv_stride + e];
      scores[s] = sum * scale;
    }
    const double most = *std::max_element(scores.begin(), scores.end());
    double total = 0.0;
    for (double& score : scores) total += score = std::exp(score - most);
    for (std::size_t e = 0; e < head_dim; ++e) {
      double sum = 0.0;
      for (std::size_t s = 0; s < keys; ++s) sum += scores[s] * v[s * kv_stride + e];
      out[f * out_stride + e] = sum / total;
    }
  }
}

bool is_gated(Activation kind) { return kind == Activation::geglu || kind == Activation::swiglu; }

Array activate(Activation kind, const Array& projected, std::size_t tokens, std::size_t hidden) {
  Array y(tokens * hidden);
  const std::size_t width = is_gated(kind) ? 2 * hidden : hidden;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < hidden; ++c) {
      const double* in = projected.data() + t * width;
      y[t * hidden + c] = is_gated(kind) ? in[c] * activation(kind, in[hidden + c]) : activation(kind, in[c]);
    }
  return y;
}

Array log_softmax(const Array& x, std::size_t tokens, std::size_t width) {
  Array y(x.size());
  for (std::size_t t = 0; t < tokens; ++t) {
    const double* in = x.data() + t * width;
    const double most = *std::max_element(in, in + width);
    double total = 0.0;
    for (std::size_t c = 0; c < width; ++c) total += std::exp(in[c] - most);
    for (std::size_t c = 0; c < width; ++c) y[t * width + c] = in[c] - most - std::log(total);
  }
  return y;
}

}  // namespace kineograph::engine::reference

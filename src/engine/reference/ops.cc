#include "engine/reference/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/conditioning.h"

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

/// The derivative of activation(kind, x).
double slope(Activation kind, double x) {
  constexpr double kSqrt2OverPi = 0.79788456080286535588;
  switch (kind) {
    case Activation::geglu:
    case Activation::gelu:
      return 0.5 * std::erfc(-x / std::numbers::sqrt2) + 0.5 * kSqrt2OverPi * x * std::exp(-0.5 * x * x);
    case Activation::gelu_approximate: {
      const double t = std::tanh(kSqrt2OverPi * (x + 0.044715 * x * x * x));
      return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * kSqrt2OverPi * (1.0 + 3.0 * 0.044715 * x * x);
    }
    case Activation::geglu_approximate: {
      const double s = sigmoid(1.702 * x);
      return s + 1.702 * x * s * (1.0 - s);
    }
    case Activation::swiglu:
    case Activation::linear_silu: {
      const double s = sigmoid(x);
      return s + x * s * (1.0 - s);
    }
  }
  return 1.0;
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

Array linear_backward(const LinearLayer& layer, const Array& x, const Array& d_y, std::size_t tokens,
                      LinearLayer& d_layer) {
  Array d_x(tokens * layer.cols);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t n = 0; n < layer.rows; ++n) {
      const double d = d_y[t * layer.rows + n];
      const double* row = layer.weight.data() + n * layer.cols;
      double* d_row = d_layer.weight.data() + n * layer.cols;
      for (std::size_t k = 0; k < layer.cols; ++k) {
        d_x[t * layer.cols + k] += d * row[k];
        d_row[k] += d * x[t * layer.cols + k];
      }
      if (!layer.bias.empty()) d_layer.bias[n] += d;
    }
  return d_x;
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

Array layer_norm_backward(const Array& x, const Array& d_y, std::size_t tokens, std::size_t width, const Array& weight,
                          double epsilon, Array& d_weight, Array& d_bias) {
  Array d_x(x.size());
  const Array normalised = layer_norm(x, tokens, width, {}, {}, epsilon);
  for (std::size_t t = 0; t < tokens; ++t) {
    const double *in = x.data() + t * width, *h = normalised.data() + t * width, *d = d_y.data() + t * width;
    MeanVariance m;
    for (std::size_t c = 0; c < width; ++c) m.mean += in[c];
    m.mean /= static_cast<double>(width);
    for (std::size_t c = 0; c < width; ++c) m.variance += (in[c] - m.mean) * (in[c] - m.mean);
    m.variance /= static_cast<double>(width);
    const double inverse = 1.0 / std::sqrt(m.variance + epsilon);
    const auto g = [&](std::size_t c) { return d[c] * (weight.empty() ? 1.0 : weight[c]); };
    double mean = 0.0, along = 0.0;
    for (std::size_t c = 0; c < width; ++c) mean += g(c), along += g(c) * h[c];
    mean /= static_cast<double>(width);
    along /= static_cast<double>(width);
    for (std::size_t c = 0; c < width; ++c) {
      d_x[t * width + c] = inverse * (g(c) - mean - h[c] * along);
      if (!d_weight.empty()) d_weight[c] += d[c] * h[c];
      if (!d_bias.empty()) d_bias[c] += d[c];
    }
  }
  return d_x;
}

ScoreBias::ScoreBias(const TensorView& view, std::int64_t row, std::int64_t head)
    : view_(view ? &view : nullptr), offset_(view ? row * view.strides()[0] + head * view.strides()[1] : 0) {}

double ScoreBias::operator()(std::size_t query, std::size_t key) const {
  if (view_ == nullptr) return 0.0;
  return element(*view_, offset_ + static_cast<std::int64_t>(query) * view_->strides()[2] +
                             static_cast<std::int64_t>(key) * view_->strides()[3]);
}

void attend(const double* q, std::size_t q_stride, std::size_t queries, const double* k, const double* v,
            std::size_t kv_stride, std::size_t keys, std::size_t head_dim, double scale, double* out,
            std::size_t out_stride, const ScoreBias& bias) {
  Array scores(keys);
  for (std::size_t f = 0; f < queries; ++f) {
    for (std::size_t s = 0; s < keys; ++s) {
      double sum = 0.0;
      for (std::size_t e = 0; e < head_dim; ++e) sum += q[f * q_stride + e] * k[s * kv_stride + e];
      scores[s] = sum * scale + bias(f, s);
    }
    const double most = *std::max_element(scores.begin(), scores.end());
    if (most == -std::numeric_limits<double>::infinity()) {
      std::fill_n(out + f * out_stride, head_dim, 0.0);
      continue;
    }
    double total = 0.0;
    for (double& score : scores) total += score = std::exp(score - most);
    for (std::size_t e = 0; e < head_dim; ++e) {
      double sum = 0.0;
      for (std::size_t s = 0; s < keys; ++s) sum += scores[s] * v[s * kv_stride + e];
      out[f * out_stride + e] = sum / total;
    }
  }
}

void attend_backward(const double* q, std::size_t q_stride, std::size_t queries, const double* k, const double* v,
                     std::size_t kv_stride, std::size_t keys, std::size_t head_dim, double scale, const double* d_out,
                     double* d_q, double* d_k, double* d_v) {
  Array p(keys), d_p(keys);
  for (std::size_t f = 0; f < queries; ++f) {
    const std::size_t at = f * q_stride;
    for (std::size_t s = 0; s < keys; ++s) {
      p[s] = d_p[s] = 0.0;
      for (std::size_t e = 0; e < head_dim; ++e) {
        p[s] += scale * q[at + e] * k[s * kv_stride + e];
        d_p[s] += d_out[at + e] * v[s * kv_stride + e];
      }
    }
    const double most = *std::max_element(p.begin(), p.end());
    double total = 0.0, along = 0.0;
    for (double& value : p) total += value = std::exp(value - most);
    for (double& value : p) value /= total;
    for (std::size_t s = 0; s < keys; ++s) along += p[s] * d_p[s];
    for (std::size_t s = 0; s < keys; ++s) {
      const double d_s = scale * p[s] * (d_p[s] - along);
      for (std::size_t e = 0; e < head_dim; ++e) {
        d_q[at + e] += d_s * k[s * kv_stride + e];
        d_k[s * kv_stride + e] += d_s * q[at + e];
        d_v[s * kv_stride + e] += p[s] * d_out[at + e];
      }
    }
  }
}

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

Array activate_backward(Activation kind, const Array& projected, const Array& d_y, std::size_t tokens,
                        std::size_t hidden) {
  Array d_projected(projected.size());
  const std::size_t width = is_gated(kind) ? 2 * hidden : hidden;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < hidden; ++c) {
      const double* in = projected.data() + t * width;
      double* d_in = d_projected.data() + t * width;
      const double d = d_y[t * hidden + c];
      if (is_gated(kind)) {
        d_in[c] = d * activation(kind, in[hidden + c]);
        d_in[hidden + c] = d * in[c] * slope(kind, in[hidden + c]);
      } else {
        d_in[c] = d * slope(kind, in[c]);
      }
    }
  return d_projected;
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

Array log_softmax_backward(const Array& y, const Array& d_y, std::size_t tokens, std::size_t width) {
  Array d_x(y.size());
  for (std::size_t t = 0; t < tokens; ++t) {
    double total = 0.0;
    for (std::size_t c = 0; c < width; ++c) total += d_y[t * width + c];
    for (std::size_t c = 0; c < width; ++c)
      d_x[t * width + c] = d_y[t * width + c] - std::exp(y[t * width + c]) * total;
  }
  return d_x;
}

}  // namespace kineograph::engine::reference

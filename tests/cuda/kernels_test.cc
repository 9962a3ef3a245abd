// The kernels alone against loops in double, on the emulated device: small enough to be compiled again with a fault in
// a kernel (faults_test.py). Returns how many checks failed.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "engine/cuda/attention.h"
#include "engine/cuda/linear.h"
#include "engine/cuda/norms.h"

namespace kineograph::engine::cuda {

void check_launch() {}

namespace {

using T = F16;
int failures = 0;

std::vector<float> draw(std::size_t count, float scale) {
  static std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = to_float(to_f16(scale * normal(random)));
  return values;
}
std::vector<T> rounded(const std::vector<float>& values) {
  std::vector<T> all;
  for (const float v : values) all.push_back(to_f16(v));
  return all;
}

/// Errors beside the answer's size: rounding the answer to f16 gives 3e-4, rounding what was multiplied as much again.
void judge(const char* name, const std::vector<double>& want, const std::vector<double>& got) {
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (want[i] - got[i]) * (want[i] - got[i]);
    norm += want[i] * want[i];
  }
  const bool good = std::sqrt(error / norm) < 1e-3;  // no number is not
  failures += !good;
  std::printf("%-10s %.1e %s\n", name, std::sqrt(error / norm), good ? "right" : "WRONG");
}

/// Rows, columns and steps that fill no tile: 200 tokens, 3 x 56 columns, 136 = 4 steps of 32 and 8.
void test_linear() {
  const int m = 200, rows = 56, n = 3 * rows, k = 136;
  const std::vector<float> x = draw(m * k, 1.0f), w = draw(n * k, 0.1f), bias = draw(n, 0.1f);
  const std::vector<T> xs = rounded(x), ws = rounded(w);
  std::vector<T> y(m * n);
  LinearArguments p = {};
  p.x = xs.data();
  for (int i = 0; i < 3; ++i) p.weights[i] = ws.data() + i * rows * k, p.biases[i] = bias.data() + i * rows;
  p.y = y.data();
  p.m = m, p.n = n, p.k = k, p.rows = rows;
  launch(&linear_kernel<T, Epilogue::store>, 2, 2, kLinearThreads, kLinearShared, nullptr, p);
  std::vector<double> want, got;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = bias[j];
      for (int c = 0; c < k; ++c) sum += double{x[i * k + c]} * w[j * k + c];
      want.push_back(sum);
      got.push_back(to_float(y[i * n + j]));
    }
  judge("linear", want, got);
}

/// 21 frames of 3 pixels: a second tile of queries and of keys, neither full; a head of 40, padded to 48.
void test_attention() {
  const int pixels = 3, frames = 21, heads = 2, d = 40, inner = heads * d, stride = 3 * inner;
  const std::vector<float> qkv = draw(pixels * frames * stride, 1.0f);
  const std::vector<T> values = rounded(qkv);
  std::vector<T> out(pixels * frames * inner);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const AttentionArguments p = {values.data(),
                                values.data() + inner,
                                values.data() + 2 * inner,
                                out.data(),
                                stride,
                                stride,
                                pixels,
                                frames,
                                heads,
                                d,
                                frames,
                                0,
                                1,
                                1,
                                pixels,
                                1.44269504f * scale};
  launch(&attention_kernel<T, 48>, 3, 1, 128, attention_shared(48), nullptr, p);
  std::vector<double> want, got;
  for (int f = 0; f < frames; ++f)
    for (int pixel = 0; pixel < pixels; ++pixel)
      for (int c = 0; c < inner; ++c) {
        const auto at = [&](int frame, int part, int column) {
          return double{qkv[(frame * pixels + pixel) * stride + part * inner + c / d * d + column]};
        };
        double total = 0.0, sum = 0.0;
        for (int s = 0; s < frames; ++s) {
          double score = 0.0;
          for (int i = 0; i < d; ++i) score += at(f, 0, i) * at(s, 1, i) * scale;
          total += std::exp(score);
          sum += std::exp(score) * at(s, 2, c % d);
        }
        want.push_back(sum / total);
        got.push_back(to_float(out[(f * pixels + pixel) * inner + c]));
      }
  judge("attention", want, got);
}

/// A mean a hundred times the deviation.
void test_moments() {
  const int count = 1000;
  std::vector<float> x = draw(2 * count, 0.1f);
  for (float& v : x) v += 10.0f;
  std::vector<Moments> moments(2);
  launch(&moments_kernel<float>, 2, 1, kMomentsThreads, sizeof(float) * kMomentsThreads / 32, nullptr,
         MomentsArguments{x.data(), moments.data(), count});
  std::vector<double> want, got;
  for (int i = 0; i < 2; ++i) {
    double mean = 0.0, squares = 0.0;
    for (int j = 0; j < count; ++j) mean += x[i * count + j] / double{count};
    for (int j = 0; j < count; ++j) squares += (x[i * count + j] - mean) * (x[i * count + j] - mean);
    want.insert(want.end(), {mean, squares});
    got.insert(got.end(), {moments[i].mean, moments[i].squares});
  }
  judge("moments", want, got);
}

}  // namespace
}  // namespace kineograph::engine::cuda

int main() {
  using namespace kineograph::engine::cuda;
  test_linear();
  test_attention();
  test_moments();
  return failures;
}

#include "video/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kineograph::video {
namespace {

// base^n by squaring: the same bits whatever the standard library.
double power(double base, std::int64_t n) {
  double result = 1;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2 != 0) result *= base;
  return result;
}

}  // namespace

double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps) {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (step >= steps) return 0;
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
  return peak * (1 + std::cos(std::numbers::pi * progress)) / 2;
}

double clip_norm(std::span<float> gradients, double most) {
  double squares = 0;
  for (const float g : gradients) squares += static_cast<double>(g) * g;
  const double norm = std::sqrt(squares);
  if (most > 0 && norm > most) {
    const auto scale = static_cast<float>(most / norm);
    for (float& g : gradients) g *= scale;
  }
  return norm;
}

bool decays(const std::string& name, std::size_t rank) { return rank == 2 && name.find(".emb") == std::string::npos; }

void AdamW::update(std::size_t first, std::span<float> weights, std::span<const float> gradients, double learning_rate,
                   bool decay) {
  const double correction1 = 1 - power(options.beta1, steps), correction2 = 1 - power(options.beta2, steps);
  const auto beta1 = static_cast<float>(options.beta1), beta2 = static_cast<float>(options.beta2);
  const auto kept = static_cast<float>(1 - learning_rate * (decay ? options.weight_decay : 0));
  const auto size = static_cast<float>(learning_rate / correction1);
  const auto root = static_cast<float>(1 / std::sqrt(correction2));
  const auto epsilon = static_cast<float>(options.epsilon);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float g = gradients[i];
    float& m = exp_avg[first + i];
    float& v = exp_avg_sq[first + i];
    m += (1 - beta1) * (g - m);
    v = beta2 * v + (1 - beta2) * g * g;
    weights[i] = kept * weights[i] - size * m / (std::sqrt(v) * root + epsilon);
  }
}

void average_weights(std::span<float> average, std::span<const float> weights, double decay, std::int64_t step) {
  const double n = static_cast<double>(step);
  const auto kept = static_cast<float>(std::min(decay, (1 + n) / (10 + n)));
  for (std::size_t i = 0; i < average.size(); ++i) average[i] += (1 - kept) * (weights[i] - average[i]);
}

}  // namespace kineograph::video

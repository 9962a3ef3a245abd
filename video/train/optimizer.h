// AdamW with decoupled decay, its schedule, and the moving average of the weights.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kineograph::video {

/// The learning rate of step `step`, counted from 0: rises linearly over `warmup` steps to `peak`, then falls as half a
/// cosine and would reach 0 at step `steps`.
double learning_rate_at(std::int64_t step, double peak, std::int64_t warmup, std::int64_t steps);

/// Scales gradients down to an L2 norm of at most `most`, where that is above 0. Returns the norm before.
double clip_norm(std::span<float> gradients, double most);

/// Whether AdamW's decay applies to a parameter of that name and rank: to the weights of products, not to biases, norms
/// and embeddings.
bool decays(const std::string& name, std::size_t rank);

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.98, epsilon = 1e-8, weight_decay = 0.01;
};

/// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019), as torch.optim.AdamW computes it.
struct AdamW {
  AdamWOptions options;
  std::vector<float> exp_avg, exp_avg_sq;  ///< moving averages of gradients and of their squares
  std::int64_t steps = 0;                  ///< done so far

  AdamW(std::size_t parameters, const AdamWOptions& chosen)
      : options(chosen), exp_avg(parameters), exp_avg_sq(parameters) {}

  /// Begins a step, then updates ranges of the weights, each with or without decay.
  void begin() { ++steps; }
  void update(std::size_t first, std::span<float> weights, std::span<const float> gradients, double learning_rate,
              bool decay);
};

/// average += (1 - decay) (weights - average), with the decay of step `step`, counted from 0: at most `decay`, and less
/// at the beginning so that the first weights are soon forgotten.
void average_weights(std::span<float> average, std::span<const float> weights, double decay, std::int64_t step);

}  // namespace kineograph::video

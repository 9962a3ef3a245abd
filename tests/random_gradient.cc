#include "random_gradient.h"

#include "model/parameters.h"

namespace kineograph::testing {

void make_trained(RandomCase& c, std::uint64_t seed) {
  if (seed % 3 != 0) return;
  c.config.dropout = 0.25;
  c.inputs.training_seed = seed;
}

Tensor sample_gradient(const RandomCase& c, std::uint64_t seed) {
  Tensor by_sample = c.make_output();
  std::mt19937_64 random(seed + 7);
  Tensor values(DType::f32, by_sample.shape());
  for (std::int64_t i = 0; i < values.numel(); ++i)
    values.data_as<float>()[i] = static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-52 - 1.0);
  return convert(values, by_sample.dtype());
}

std::vector<Named> gradients_of(const RandomCase& c, const engine::Plan& plan, std::uint64_t seed, int threads) {
  engine::Gradients wanted;
  std::vector<Named> found;
  const auto slots = model::parameter_slots(c.config, wanted.weights);
  found.reserve(slots.size() + 2);
  for (const auto& slot : slots) {
    if (slot.role == model::Role::positions) continue;
    found.push_back({slot.name, Tensor(DType::f32, slot.shape)});
    *slot.view = found.back().value.mutable_view();
  }
  if (!c.config.is_discrete()) {
    found.push_back({"hidden_states", Tensor(c.inputs.hidden_states.dtype(), c.inputs.hidden_states.shape())});
    wanted.hidden_states = found.back().value.mutable_view();
  }
  if (c.inputs.encoder_hidden_states) {
    found.push_back({"encoder_hidden_states", Tensor(DType::f32, c.inputs.encoder_hidden_states.shape())});
    wanted.encoder_hidden_states = found.back().value.mutable_view();
  }
  engine::Inputs inputs = c.inputs;
  inputs.num_threads = threads;
  plan.backward(inputs, sample_gradient(c, seed), wanted);
  return found;
}

}  // namespace kineograph::testing

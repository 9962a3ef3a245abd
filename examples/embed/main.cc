// Runs random latents through a model: the folder given, or a small one with seeded weights.
#include <kineograph/kineograph.h>

#include <cstdint>
#include <iostream>
#include <random>

int main(int argc, char** argv) {
  using namespace kineograph;
  try {
    TransformerTemporalConfig config;
    config.num_attention_heads = 2;
    config.attention_head_dim = 8;
    config.in_channels = 32;
    const auto model = argc > 1 ? TransformerTemporalModel::from_pretrained(argv[1])
                                : TransformerTemporalModel::from_config(config, /*seed=*/1);

    const std::int64_t num_frames = 4, height = 6, width = 5;
    Tensor hidden_states(DType::f32, {num_frames, model.config().in_channels.value(), height, width});
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < hidden_states.numel(); ++i) hidden_states.data_as<float>()[i] = normal(random);

    const Tensor sample = model.forward(hidden_states, {.num_frames = num_frames}).sample;
    std::cout << "kineograph " << version() << ", engine " << model.engine() << ": sample " << to_string(sample.shape())
              << "\n";
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}

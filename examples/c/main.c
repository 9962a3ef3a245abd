/* Runs latents through a model in C: the checkpoint and module given, or a small model with seeded weights. */
#include <kineograph/c.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char* what) {
  fprintf(stderr, "%s: %s\n", what, kineograph_last_error());
  return 1;
}

int main(int argc, char** argv) {
  kineograph_model* model = NULL;
  const char* config =
      "{\"num_attention_heads\": 2, \"attention_head_dim\": 8, \"in_channels\": 32, \"norm_num_groups\": 8}";
  const kineograph_status made = argc > 1 ? kineograph_model_open(argv[1], argc > 2 ? argv[2] : NULL, NULL, &model)
                                          : kineograph_model_from_config(config, 1, KINEOGRAPH_F32, NULL, &model);
  if (made != KINEOGRAPH_OK) return failed("model");

  enum { kFrames = 4, kChannels = 32, kHeight = 6, kWidth = 5, kValues = kFrames * kChannels * kHeight * kWidth };
  float* values = calloc(2 * kValues, sizeof *values);
  if (values == NULL) return 1;
  for (int i = 0; i < kValues; ++i) values[i] = (float)((i * 7919) % 1000) / 500.0f - 1.0f;
  const kineograph_tensor hidden_states = {values, KINEOGRAPH_F32, 4, {kFrames, kChannels, kHeight, kWidth}, {0}};
  const kineograph_tensor sample = {values + kValues, KINEOGRAPH_F32, 4, {kFrames, kChannels, kHeight, kWidth}, {0}};

  kineograph_forward_options options = KINEOGRAPH_FORWARD_OPTIONS_INIT;
  options.num_frames = kFrames;
  int status = 0;
  if (kineograph_model_forward(model, &hidden_states, &sample, &options) != KINEOGRAPH_OK)
    status = failed("forward");
  else
    printf("kineograph %s, engine %s: sample[0] %.6f\n", kineograph_version(), kineograph_model_engine(model),
           (double)values[kValues]);
  free(values);
  kineograph_model_free(model);
  return status;
}

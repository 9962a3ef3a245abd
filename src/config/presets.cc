// The temporal modules of published models.
#include "kineograph/config.h"

namespace kineograph {
namespace {

/// AnimateDiff's motion modules: eight heads over C = I channels, positions up to `positions` frames.
TransformerTemporalConfig animatediff(std::int64_t channels, std::int64_t positions) {
  TransformerTemporalConfig config;
  config.num_attention_heads = 8;
  config.attention_head_dim = channels / 8;
  config.in_channels = channels;
  config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  config.num_positional_embeddings = positions;
  return config;
}

/// UNet3DConditionModel's temp_attentions: heads of 64, no positions.
TransformerTemporalConfig unet3d(std::int64_t channels, std::int64_t heads) {
  TransformerTemporalConfig config;
  config.num_attention_heads = heads;
  config.attention_head_dim = 64;
  config.in_channels = channels;
  return config;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = {
      {"animatediff-v1-320", "AnimateDiff v1 for Stable Diffusion 1.5, the 320-channel modules", animatediff(320, 24)},
      {"animatediff-v1-640", "AnimateDiff v1, the 640-channel modules", animatediff(640, 24)},
      {"animatediff-v1-1280", "AnimateDiff v1, the 1280-channel modules", animatediff(1280, 24)},
      {"animatediff-v2-320", "AnimateDiff v2 for Stable Diffusion 1.5, the 320-channel modules", animatediff(320, 32)},
      {"animatediff-v2-640", "AnimateDiff v2, the 640-channel modules", animatediff(640, 32)},
      {"animatediff-v2-1280", "AnimateDiff v2, the 1280-channel modules", animatediff(1280, 32)},
      {"animatediff-v3-320", "AnimateDiff v3 for Stable Diffusion 1.5, the 320-channel modules", animatediff(320, 32)},
      {"animatediff-v3-640", "AnimateDiff v3, the 640-channel modules", animatediff(640, 32)},
      {"animatediff-v3-1280", "AnimateDiff v3, the 1280-channel modules", animatediff(1280, 32)},
      {"animatediff-sdxl-320", "AnimateDiff for Stable Diffusion XL, the 320-channel modules", animatediff(320, 32)},
      {"animatediff-sdxl-640", "AnimateDiff for Stable Diffusion XL, the 640-channel modules", animatediff(640, 32)},
      {"animatediff-sdxl-1280", "AnimateDiff for Stable Diffusion XL, the 1280-channel modules", animatediff(1280, 32)},
      {"modelscope-in", "ModelScope text-to-video, transformer_in (512 wide inside)", unet3d(320, 8)},
      {"modelscope-320", "ModelScope text-to-video, the 320-channel modules", unet3d(320, 5)},
      {"modelscope-640", "ModelScope text-to-video, the 640-channel modules", unet3d(640, 10)},
      {"modelscope-1280", "ModelScope text-to-video, the 1280-channel modules", unet3d(1280, 20)},
      {"zeroscope-in", "ZeroScope v2, transformer_in (512 wide inside)", unet3d(320, 8)},
      {"zeroscope-320", "ZeroScope v2, the 320-channel modules", unet3d(320, 5)},
      {"zeroscope-640", "ZeroScope v2, the 640-channel modules", unet3d(640, 10)},
      {"zeroscope-1280", "ZeroScope v2, the 1280-channel modules", unet3d(1280, 20)},
      {"i2vgen-xl-in", "I2VGen-XL, transformer_in (512 wide inside)", unet3d(320, 8)},
      {"i2vgen-xl-320", "I2VGen-XL, the 320-channel modules", unet3d(320, 5)},
      {"i2vgen-xl-640", "I2VGen-XL, the 640-channel modules", unet3d(640, 10)},
      {"i2vgen-xl-1280", "I2VGen-XL, the 1280-channel modules", unet3d(1280, 20)},
  };
  return all;
}

}  // namespace kineograph

// The modules of published models.
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

/// Stable Diffusion's Transformer2DModel: `layers` blocks that attend to a text of width `text`.
Transformer2DConfig image(std::int64_t channels, std::int64_t heads, std::int64_t text, std::int64_t layers,
                          bool linear) {
  Transformer2DConfig config;
  config.num_attention_heads = heads;
  config.attention_head_dim = channels / heads;
  config.in_channels = channels;
  config.num_layers = layers;
  config.cross_attention_dim = text;
  config.use_linear_projection = linear;
  return config;
}

/// Stable Video Diffusion's TransformerSpatioTemporalModel: heads of 64.
TransformerSpatioTemporalConfig svd(std::int64_t channels) {
  TransformerSpatioTemporalConfig config;
  config.num_attention_heads = channels / 64;
  config.attention_head_dim = 64;
  config.in_channels = channels;
  config.cross_attention_dim = 1024;
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
      {"sd15/320", "Stable Diffusion 1.5 and AnimateDiff, the spatial 320-channel modules",
       image(320, 8, 768, 1, false)},
      {"sd15/640", "Stable Diffusion 1.5, the spatial 640-channel modules", image(640, 8, 768, 1, false)},
      {"sd15/1280", "Stable Diffusion 1.5, the spatial 1280-channel modules", image(1280, 8, 768, 1, false)},
      {"sd21/320", "Stable Diffusion 2.1, the spatial 320-channel modules", image(320, 5, 1024, 1, true)},
      {"sd21/640", "Stable Diffusion 2.1, the spatial 640-channel modules", image(640, 10, 1024, 1, true)},
      {"sd21/1280", "Stable Diffusion 2.1, the spatial 1280-channel modules", image(1280, 20, 1024, 1, true)},
      {"sdxl/640", "Stable Diffusion XL, the spatial 640-channel modules", image(640, 10, 2048, 2, true)},
      {"sdxl/1280", "Stable Diffusion XL, the spatial 1280-channel modules", image(1280, 20, 2048, 10, true)},
      {"svd/320", "Stable Video Diffusion, the 320-channel modules", svd(320)},
      {"svd/640", "Stable Video Diffusion, the 640-channel modules", svd(640)},
      {"svd/1280", "Stable Video Diffusion, the 1280-channel modules", svd(1280)},
  };
  return all;
}

}  // namespace kineograph

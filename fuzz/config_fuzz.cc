// The input as the configuration of a module, and as that of a UNet.
#include "fuzz.h"
#include "kineograph/config.h"
#include "model/unet_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  fuzz::expect_value_or_error([&] {
    const model::UNetConfig unet(fuzz::text(data, size), "input");
    unet.is_of("MotionAdapter");
    for (const char* key :
         {"motion_num_attention_heads", "attention_head_dim", "norm_num_groups", "motion_max_seq_length"})
      for (const char* module :
           {"down_blocks.0.motion_modules.1", "mid_block.temp_attentions.0", "up_blocks.99.motion_modules.0"})
        unet.integer(key, module);
  });
  return fuzz::expect_value_or_error([&] {
    const auto config = TransformerTemporalConfig::from_json(fuzz::text(data, size), "input", UnknownKeys::warn);
    config.validate();
    const std::string written = config.to_json();
    if (TransformerTemporalConfig::from_json(written).to_json() != written) __builtin_trap();
  });
}

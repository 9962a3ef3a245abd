// The names of low-rank factors, as trainers write them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/layouts.h"

namespace kineograph::model {

/// A key of a LoRA file.
struct LoraKey {
  enum class Part {
    down,   ///< (r, in)
    up,     ///< (out, r)
    alpha,  ///< a number
    other,  ///< what more than a low-rank pair there is for a layer: DoRA's magnitudes, a bias, LoHa's factors
  };
  Part part;
  std::string layer;    ///< the layer's path as the file has it
  std::string adapter;  ///< PEFT's name of the adapter; empty for none
  std::string kind;     ///< for Part::other, its name in words
};

/// Reads the endings of the original AnimateDiff (to_q_lora.down.weight), of diffusers and kohya (lora.down.weight,
/// lora_down.weight, alpha), of PEFT (lora_A.weight, lora_A.NAME.weight) and of loralib (lora_A); nullopt for others.
std::optional<LoraKey> read_lora_key(std::string_view key);

inline bool is_adapter_key(std::string_view key) { return read_lora_key(key).has_value(); }

/// The weight that a LoRA's layer stands for: a path with dots, with processors in it or without, or kohya's with
/// underscores; nullopt for what is no temporal module's.
std::optional<Place> lora_target(std::string_view layer);

}  // namespace kineograph::model

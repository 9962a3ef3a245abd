// From one checkpoint layout to another.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "kineograph/checkpoint.h"
#include "kineograph/lora.h"
#include "kineograph/modules.h"

namespace kineograph {

/// Layout and changes of convert().
struct ConvertOptions {
  /// The layout to write: Layout::module, a folder for TransformerTemporalModel; Layout::motion_adapter, a folder for
  /// diffusers' MotionAdapter; Layout::animatediff, one .safetensors file with the original's names.
  Layout to = Layout::motion_adapter;
  /// For Layout::module: which one; empty for the only one.
  std::string module = {};
  /// f32, f16 or bf16; nullopt keeps each tensor's own.
  std::optional<DType> dtype = {};
  /// Merged into the weights, in this order.
  LoraStack loras = {};
  /// Rows of the position tables, at least as many as there are; further ones are diffusers' sines and cosines.
  std::optional<std::int64_t> num_positional_embeddings = {};
  /// Called after every tensor with the bytes written so far and in all.
  std::function<void(std::size_t done, std::size_t total)> on_progress = {};
};

/// Writes `output` tensor by tensor; files appear whole or not at all. Throws ArgumentError for what the layout cannot
/// hold, CheckpointError for LoRAs that match nothing, FormatError for damaged tensors, IoError.
void convert(const Checkpoint& checkpoint, const std::filesystem::path& output, const ConvertOptions& options);

}  // namespace kineograph

// From one checkpoint layout to another.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/export.h"
#include "kineograph/lora.h"
#include "kineograph/modules.h"
#include "kineograph/positions.h"

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
  /// Merged into the weights that they fit, in this order.
  LoraStack loras = {};
  /// Refuses LoRAs of which anything is not merged.
  bool strict = false;
  /// Rows of the position tables, at least as many as there are.
  std::optional<std::int64_t> num_positional_embeddings = {};
  /// The source of further rows.
  PositionExtension position_extension = PositionExtension::formula;
  /// Called before the first tensor and after every one with the bytes written so far and in all; false ends the
  /// conversion with Cancelled, and what was there before stays.
  std::function<bool(std::size_t done, std::size_t total)> on_progress = {};
};

/// What became of the LoRAs.
struct ConvertReport {
  /// One LoRA of ConvertOptions::loras.
  struct Merged {
    std::string file;                    ///< as it was opened
    double scale = 1.0;                  ///< what its deltas were multiplied by
    std::size_t deltas = 0;              ///< pairs that were added to weights
    std::vector<Lora::Skipped> skipped;  ///< what of the file was not
  };
  std::vector<Merged> loras;  ///< in the order of ConvertOptions::loras
};

/// Writes `output` tensor by tensor; files appear whole or not at all. 8-bit floats are written as f16 where no dtype
/// is asked for. Throws ArgumentError for what the layout cannot hold, CheckpointError for a checkpoint without modules
/// or with several sets of them and for LoRAs that match nothing, FormatError for damaged tensors, IoError,
/// Cancelled.
KINEOGRAPH_API ConvertReport convert(const Checkpoint& checkpoint, const std::filesystem::path& output,
                                     const ConvertOptions& options);

}  // namespace kineograph

// The modules of a checkpoint.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/config.h"
#include "kineograph/export.h"
#include "kineograph/model.h"

namespace kineograph {

/// Kind of a file with temporal modules: the names of its tensors.
enum class Layout {
  module,          ///< one TransformerTemporalModel by itself
  motion_adapter,  ///< diffusers' MotionAdapter
  unet_motion,     ///< the motion modules inside diffusers' UNetMotionModel
  unet_3d,         ///< diffusers' UNet3DConditionModel
  i2vgen_xl,       ///< diffusers' I2VGenXLUNet
  animatediff,     ///< the original AnimateDiff's motion modules, AnimateLCM, SparseCtrl, HotshotXL
  modelscope,      ///< ModelScope's and VGen's original UNet, with Conv1d projections
};
KINEOGRAPH_API std::string_view name_of(Layout layout) noexcept;
/// Whether its modules are AnimateDiff's motion modules, which a MotionAdapter holds.
KINEOGRAPH_API bool is_motion(Layout layout) noexcept;

/// What an 8-bit weight is multiplied by: one number, or one a row, (out) or (out, 1), as f32, f16 or bf16.
struct WeightScale {
  TensorView value;    ///< in the checkpoint's memory
  std::string source;  ///< what it is called in the file
};

/// One module of a checkpoint, under diffusers' names whatever they are in the file.
struct KINEOGRAPH_API CheckpointModule {
  std::string name;  ///< its path in diffusers, such as "down_blocks.0.attentions.1"; empty for a single module
  /// Keys of its configuration that neither the tensors' shapes nor a config.json say: the published models' values.
  std::vector<std::string> assumed;
  std::vector<Parameter> state_dict;          ///< names inside the module; views of memory that the checkpoint keeps
  std::vector<std::string> sources;           ///< the name of each in the file
  std::map<std::string, WeightScale> scales;  ///< of 8-bit weights, by their parameter's name
  /// Why no model can be made of it, such as a tensor that is missing; empty where one can.
  std::string problem;

  /// Elements of state_dict's tensors, position tables left out.
  std::int64_t num_parameters() const;
  /// What its first tensor is read as: 8-bit floats are read as f16.
  DType dtype() const noexcept;
};

/// One TransformerTemporalModel of a checkpoint.
struct TemporalModule : CheckpointModule {
  Layout layout = Layout::module;    ///< of the file it was found in
  TransformerTemporalConfig config;  ///< from the tensors' shapes, a config.json and published values
  /// Position tables in 16 bits of an original file that are the formula's to rounding: as in diffusers, the formula's
  /// values in f32 stand for them.
  std::vector<std::string> recomputed;
  /// Keys of low-rank factors that PEFT injected, which the weights do not contain; Lora::open reads them.
  std::vector<std::string> adapter;
};

/// One Transformer2DModel or TransformerSpatioTemporalModel of a checkpoint.
struct SpatialModule : CheckpointModule {
  ModelConfig config;  ///< from the tensors' shapes, a config.json and published values
};

/// One reading of a checkpoint: the modules below one path.
struct ModuleSet {
  std::string path;                     ///< for OpenOptions::select; kRoot for the file's top
  std::vector<TemporalModule> modules;  ///< in the order in which data passes them
};

/// Every set of temporal modules in a checkpoint that differs from the others, such as weights and their moving
/// average, or those that OpenOptions::select leaves. Modules are found by their keys, whole or not, whatever stands
/// before; paths that share no module are one set. What no shape says comes from a config.json beside the file. Throws
/// ConfigError for such a file that is damaged or does not fit, or where the published values do not; CheckpointError
/// for two tensors in one place.
KINEOGRAPH_API std::vector<ModuleSet> module_sets(const Checkpoint& checkpoint);

/// The modules of a checkpoint's only set; empty where it has none. Throws what module_sets does, and CheckpointError,
/// which names their paths, for several sets.
KINEOGRAPH_API std::vector<TemporalModule> temporal_modules(const Checkpoint& checkpoint);

/// What a checkpoint without temporal modules seems to hold, and which command or option helps, as a sentence: a LoRA,
/// quantised weights, another model. Empty where nothing is known.
KINEOGRAPH_API std::string other_contents(const Checkpoint& checkpoint);

/// One of them as a model, by its path in diffusers; an empty name for the only one. Its tensors' checksums are
/// checked. Throws ArgumentError for a name that is not there, and what temporal_modules and from_state_dict throw.
KINEOGRAPH_API TransformerTemporalModel load(const Checkpoint& checkpoint, std::string_view name = {},
                                             ModelOptions options = {});

/// The Transformer2DModels and TransformerSpatioTemporalModels in a checkpoint, whole or not: in diffusers'
/// UNet2DConditionModel, UNetMotionModel, UNet3DConditionModel, I2VGenXLUNet and UNetSpatioTemporalConditionModel, in
/// the original UNets of Stable Diffusion, ModelScope and Stable Video Diffusion, or by themselves. Throws as
/// temporal_modules.
KINEOGRAPH_API std::vector<SpatialModule> spatial_modules(const Checkpoint& checkpoint);

/// A spatial module as a model of its class.
using SpatialModel = std::variant<Transformer2DModel, TransformerSpatioTemporalModel>;

/// One of them as a model, by its path in diffusers; an empty name for the only one. As load.
KINEOGRAPH_API SpatialModel load_spatial(const Checkpoint& checkpoint, std::string_view name = {},
                                         ModelOptions options = {});

}  // namespace kineograph

// The modules of a checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/config.h"
#include "kineograph/model.h"

namespace kineograph {

/// Kind of a file with temporal modules: the names of its tensors.
enum class Layout {
  module,          ///< one TransformerTemporalModel by itself
  motion_adapter,  ///< diffusers' MotionAdapter
  unet_motion,     ///< the motion modules inside diffusers' UNetMotionModel
  unet_3d,         ///< diffusers' UNet3DConditionModel
  i2vgen_xl,       ///< diffusers' I2VGenXLUNet
  animatediff,     ///< the original AnimateDiff's motion modules, AnimateLCM, SparseCtrl
  modelscope,      ///< ModelScope's and VGen's original UNet, with Conv1d projections
};
std::string_view name_of(Layout layout) noexcept;
/// Whether its modules are AnimateDiff's motion modules, which a MotionAdapter holds.
bool is_motion(Layout layout) noexcept;

/// One module of a checkpoint, under diffusers' names whatever they are in the file.
struct CheckpointModule {
  std::string name;  ///< its path in diffusers, such as "down_blocks.0.attentions.1"; empty for a single module
  /// Keys of its configuration that neither the tensors' shapes nor a config.json say: the published models' values.
  std::vector<std::string> assumed;
  std::vector<Parameter> state_dict;  ///< names inside the module; views of memory that the checkpoint keeps
  std::vector<std::string> sources;   ///< the name of each in the file
  /// Why no model can be made of it, such as a tensor that is missing; empty where one can.
  std::string problem;

  /// Elements of state_dict's tensors, position tables left out.
  std::int64_t num_parameters() const;
  /// The first tensor's dtype.
  DType dtype() const noexcept;
};

/// One TransformerTemporalModel of a checkpoint.
struct TemporalModule : CheckpointModule {
  Layout layout = Layout::module;       ///< of the file it was found in
  TransformerTemporalConfig config;     ///< from the tensors' shapes, a config.json and published values
  std::vector<std::string> recomputed;  ///< position tables of the original's in the file, which are computed anew
};

/// One Transformer2DModel or TransformerSpatioTemporalModel of a checkpoint.
struct SpatialModule : CheckpointModule {
  ModelConfig config;  ///< from the tensors' shapes, a config.json and published values
};

/// The temporal modules in a checkpoint, whole or not, found by their keys; what no shape says comes from a config.json
/// beside the file. Throws ConfigError for such a file that is damaged or does not fit, or where the published values
/// do not; CheckpointError for two tensors in one place.
std::vector<TemporalModule> temporal_modules(const Checkpoint& checkpoint);

/// One of them as a model, by its path in diffusers; an empty name for the only one. Its tensors' checksums are
/// checked. Throws ArgumentError for a name that is not there, and what from_state_dict throws.
TransformerTemporalModel load(const Checkpoint& checkpoint, std::string_view name = {}, ModelOptions options = {});

/// The Transformer2DModels and TransformerSpatioTemporalModels in a checkpoint, whole or not: in diffusers'
/// UNet2DConditionModel, UNetMotionModel, UNet3DConditionModel, I2VGenXLUNet and UNetSpatioTemporalConditionModel, in
/// the original UNets of Stable Diffusion, ModelScope and Stable Video Diffusion, or by themselves. Throws as
/// temporal_modules.
std::vector<SpatialModule> spatial_modules(const Checkpoint& checkpoint);

/// A spatial module as a model of its class.
using SpatialModel = std::variant<Transformer2DModel, TransformerSpatioTemporalModel>;

/// One of them as a model, by its path in diffusers; an empty name for the only one. As load.
SpatialModel load_spatial(const Checkpoint& checkpoint, std::string_view name = {}, ModelOptions options = {});

}  // namespace kineograph

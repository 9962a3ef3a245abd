// A module's tensors on the way to a TemporalModule.
#pragma once

#include <map>
#include <string>

#include "kineograph/modules.h"
#include "model/layouts.h"
#include "model/unet_config.h"

namespace kineograph::model {

struct Found {
  Layout layout = Layout::module;
  std::map<std::string, TensorView> tensors = {};             ///< parameters, by diffusers' names
  std::map<std::string, std::string> sources = {};            ///< keys in the file, of parameters and of all below
  std::map<std::string, TensorView> original_positions = {};  ///< "...attn1.pos_encoder.pe" of originals
  std::map<std::string, WeightScale> scales = {};
  std::vector<std::string> adapter = {};
  std::int64_t positions = 0;
  std::string problem = {};

  TensorView find(const std::string& name) const;
  /// Takes a tensor of this module. Throws CheckpointError for a second one in its place.
  void add(const std::string& key, const Place& place, const TensorView& view);
  /// Whether there are the tensors that say what the module is.
  bool is_readable() const;
};

/// The set of modules that a checkpoint holds, without modules where it has none. Throws CheckpointError, which names
/// their paths, for several.
ModuleSet only_set(const Checkpoint& checkpoint);

/// The module of what was found; its configuration is what shapes, `unet` and the published models say. Throws
/// ConfigError for a configuration that does not fit.
TemporalModule make_module(const std::string& name, Found found, const UNetConfig& unet);

}  // namespace kineograph::model

// Checkpoint files: named tensors on disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kineograph/error.h"
#include "kineograph/model.h"
#include "kineograph/tensor.h"

namespace kineograph {

/// Where a temporal module was found, and how its tensors are named there.
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

/// One temporal module of a checkpoint, under diffusers' names whatever the layout.
struct TemporalModule {
  std::string name;  ///< its path in diffusers, such as "down_blocks.0.motion_modules.1"; empty for a single module
  Layout layout = Layout::module;    ///< of the file it was found in
  TransformerTemporalConfig config;  ///< from the tensors' shapes, a config.json and published values

  /// Keys of `config` that neither the tensors' shapes nor a config.json say: the published models' values.
  std::vector<std::string> assumed;
  std::vector<Parameter> state_dict;    ///< names inside the module; views of the checkpoint's memory
  std::vector<std::string> sources;     ///< what each of them is called in the file
  std::vector<std::string> recomputed;  ///< position tables of the original's in the file, which are computed anew

  /// Why no model can be made of it, such as a tensor that is missing; empty where one can.
  std::string problem;

  /// Elements of state_dict's tensors, position tables left out.
  std::int64_t num_parameters() const;
  /// The first tensor's dtype.
  DType dtype() const noexcept;
};

/// A safetensors file, a set of shards with an index, or a torch archive, mapped into memory. Views live as long as any
/// copy of it. Torch archives are read without running anything in them.
class Checkpoint {
 public:
  /// Opens a .safetensors file, a .safetensors.index.json, a torch archive (.ckpt, .pth, .bin, .pt: told by its bytes),
  /// or a folder diffusers wrote (with `variant`, such as "fp16"). Every header is checked whole before this returns.
  /// Throws IoError or FormatError.
  static Checkpoint open(const std::filesystem::path& path, std::string_view variant = {});

  /// Names and views in the order of the file.
  const std::vector<std::pair<std::string, TensorView>>& tensors() const noexcept;
  /// A default-made view for a name that is not there.
  TensorView find(std::string_view name) const noexcept;
  /// The files' __metadata__.
  const std::map<std::string, std::string>& metadata() const noexcept;
  /// The files that were opened.
  const std::vector<std::filesystem::path>& files() const noexcept;
  /// "safetensors", "torch archive", ...
  const std::string& container() const noexcept;

  /// What a torch archive holds besides tensors: its name, and what it is.
  struct Ignored {
    std::string name;  ///< its path in the pickled object
    std::string what;  ///< its type, in words
  };
  /// Empty for safetensors.
  const std::vector<Ignored>& ignored() const noexcept;
  /// Reads a tensor whole and compares its checksum, in containers that have one. Throws FormatError.
  void verify(std::string_view name) const;

  /// Lets go of the memory behind a tensor, for programs that go through a large file; views stay valid, and reading
  /// them brings it back.
  void release(std::string_view name) const noexcept;

  /// The temporal modules in it, whole or not, found by their keys; what no shape says comes from a config.json beside
  /// the file. Throws ConfigError for such a file that is damaged or does not fit, or where the published values do
  /// not; CheckpointError for two tensors in one place.
  std::vector<TemporalModule> modules() const;
  /// One of them as a model, by its path in diffusers; an empty name for the only one. Its tensors' checksums are
  /// checked. Throws ArgumentError for a name that is not there, and what from_state_dict throws.
  TransformerTemporalModel load(std::string_view module = {}, ModelOptions options = {}) const;

  /// Keeps the mapped memory alive.
  std::shared_ptr<const void> owner() const noexcept;

 private:
  struct Impl;
  explicit Checkpoint(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// Writes a safetensors file atomically: a half-written file never takes the name `path`. Tensors are written row-major
/// in the order that diffusers' library uses (by dtype size, then name), so equal contents give equal bytes.
void save_safetensors(const std::filesystem::path& path, const std::vector<std::pair<std::string, TensorView>>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace kineograph

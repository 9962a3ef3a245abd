// Low-rank additions to the weights of temporal modules: W + scale * up * down.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/export.h"
#include "kineograph/model.h"
#include "kineograph/modules.h"

namespace kineograph {

/// Which part of a LoRA file is read.
struct LoraOptions {
  /// OpenOptions::select of the file, where pairs of several models have the same weights' names.
  std::string select = {};
  /// PEFT's name of the adapter, where the file has several.
  std::string adapter = {};
};

/// A LoRA file, in the key forms of the original AnimateDiff motion LoRAs (processor.to_q_lora.down), of diffusers and
/// kohya (to_q.lora.down, lora_down, .alpha; kohya's underscores for dots), of PEFT (to_q.lora_A, lora_A.NAME, with its
/// lora_alpha, alpha_pattern and use_rslora from diffusers' metadata or from the adapter_config.json beside it) and of
/// loralib (to_q.lora_A without .weight).
class KINEOGRAPH_API Lora {
 public:
  /// The addition to one weight: factor * up * down.
  struct Delta {
    std::string key;        ///< the layer's path in the file
    std::string module;     ///< path of the module, as TemporalModule::name
    std::string parameter;  ///< "transformer_blocks.0.attn1.to_q.weight"
    TensorView down;        ///< (r, in)
    TensorView up;          ///< (out, r)
    double factor = 1.0;    ///< alpha / r (PEFT's use_rslora: alpha / sqrt(r)), 1 without an alpha
  };
  /// Something in the file that is not added to weights.
  struct Skipped {
    std::string key;  ///< the layer's path in the file, or a tensor's name
    std::string why;  ///< "no weight of a temporal module", "a DoRA", ...
  };

  /// A file, or a folder that PEFT or diffusers wrote; a model's file with an adapter in it, too. Throws IoError or
  /// FormatError; CheckpointError for a file without a pair for a temporal module, and for two pairs for one weight;
  /// ArgumentError for several adapters of which none is chosen.
  static Lora open(const std::filesystem::path& path, const LoraOptions& options = {});

  /// All of the file, in its order.
  const std::vector<Delta>& deltas() const noexcept { return deltas_; }
  /// All of the file that makes no delta.
  const std::vector<Skipped>& skipped() const noexcept { return skipped_; }
  /// What was opened.
  const std::string& where() const noexcept { return where_; }

  /// The same with those deltas only that have a weight of their shape in `modules`; the others are skipped. Throws
  /// CheckpointError where none is left, and, if `strict`, where anything is skipped.
  Lora fitted_to(const std::vector<TemporalModule>& modules, bool strict = false) const;

 private:
  /// The same for parameters of one module.
  Lora fitted_to(std::string_view module, const std::vector<Parameter>& parameters, bool strict) const;
  template <class Fits>
  Lora fitted(const Fits& fits, const std::string& to, bool strict) const;
  friend class AdaptedModel;

  std::vector<Delta> deltas_;
  std::vector<Skipped> skipped_;
  std::shared_ptr<const void> owner_;
  std::string where_;
};

/// LoRAs with their scales, which may be negative.
using LoraStack = std::vector<std::pair<Lora, double>>;

/// weight + sum of scale * factor * up * down over the deltas of `parameter` in `module`, in f64 and rounded once, as
/// `dtype`; an empty tensor where no LoRA has one, or only with a scale of 0. Throws CheckpointError for a delta of
/// another shape than `weight`.
KINEOGRAPH_API Tensor merged_weight(const LoraStack& loras, std::string_view module, std::string_view parameter,
                                    TensorView weight, DType dtype);

/// A model that takes and drops LoRAs. The base's weights are never changed: without LoRAs the model is the base to the
/// last bit. For one thread; models that were handed out stay as they were.
class KINEOGRAPH_API AdaptedModel {
 public:
  /// `module` is the path by which LoRAs know the base.
  AdaptedModel(TransformerTemporalModel base, std::string module, ModelOptions options = {});

  /// Adds what of a LoRA fits this module, and returns what of it is this module's and does not fit. Throws
  /// ArgumentError for a name that is taken and a scale that is not finite; CheckpointError where nothing fits, and, if
  /// `strict`, where keys of this module match no weight.
  std::vector<Lora::Skipped> add_lora(const std::string& name, const Lora& lora, double scale = 1.0,
                                      bool strict = false);
  /// Throws ArgumentError for a name that is not there or a scale that is not finite.
  void set_scale(const std::string& name, double scale);
  /// Throws ArgumentError for a name that is not there.
  void remove_lora(const std::string& name);
  /// The model with all LoRAs as they are now.
  const TransformerTemporalModel& model() const noexcept { return current_; }

 private:
  std::size_t index_of(const std::string& name) const;
  /// The model with `loras`; all else is as before where it throws.
  void rebuild(const LoraStack& loras);

  TransformerTemporalModel base_, current_;
  std::string module_;
  ModelOptions options_;
  std::vector<std::string> names_;
  LoraStack loras_;
};

}  // namespace kineograph

// Low-rank additions to the weights of temporal modules: W + scale * up * down.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/model.h"
#include "kineograph/modules.h"

namespace kineograph {

/// A LoRA file, in the key forms of the original AnimateDiff motion LoRAs (processor.to_q_lora.down), of diffusers and
/// kohya (to_q.lora.down, lora_down, .alpha) and of PEFT (to_q.lora_A, with its lora_alpha from diffusers' metadata or
/// from the adapter_config.json beside it).
class Lora {
 public:
  /// The addition to one weight: factor * up * down.
  struct Delta {
    std::string key;        ///< its name in the file, without its ending
    std::string module;     ///< path of the module, as TemporalModule::name
    std::string parameter;  ///< "transformer_blocks.0.attn1.to_q.weight"
    TensorView down;        ///< (r, in)
    TensorView up;          ///< (out, r)
    double factor = 1.0;    ///< alpha / r (PEFT's use_rslora: alpha / sqrt(r)), 1 without an alpha
  };

  /// A file, or a folder that PEFT or diffusers wrote. Throws IoError or FormatError; CheckpointError for keys that are
  /// no LoRA's, all named.
  static Lora open(const std::filesystem::path& path);

  /// All of the file, in its order.
  const std::vector<Delta>& deltas() const noexcept { return deltas_; }
  /// Throws CheckpointError, naming them all, for deltas that no module of `modules` has a weight for.
  void require_in(const std::vector<TemporalModule>& modules) const;

 private:
  std::vector<Delta> deltas_;
  std::shared_ptr<const void> owner_;
  std::string where_;
};

/// LoRAs with their scales, which may be negative.
using LoraStack = std::vector<std::pair<Lora, double>>;

/// weight + sum of scale * factor * up * down over the deltas of `parameter` in `module`, in f64 and rounded once, as
/// `dtype`; an empty tensor where no LoRA has one, or only with a scale of 0. Throws CheckpointError for a delta of
/// another shape than `weight`.
Tensor merged_weight(const LoraStack& loras, std::string_view module, std::string_view parameter, TensorView weight,
                     DType dtype);

/// A model that takes and drops LoRAs. The base's weights are never changed: without LoRAs the model is the base to the
/// last bit. For one thread; models that were handed out stay as they were.
class AdaptedModel {
 public:
  /// `module` is the path by which LoRAs know the base.
  AdaptedModel(TransformerTemporalModel base, std::string module, ModelOptions options = {});

  /// Throws ArgumentError for a name that is taken and a scale that is not finite; CheckpointError for a LoRA with
  /// nothing for this module, or with keys of it that match no weight.
  void add_lora(const std::string& name, const Lora& lora, double scale = 1.0);
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

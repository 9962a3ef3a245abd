#include "model/contents.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>

#include "base/text.h"
#include "kineograph/modules.h"
#include "model/lora_keys.h"

namespace kineograph {
namespace {

constexpr const char* kUnquantised =
    " Get the weights unquantised, in f16, bf16 or f32, or in 8-bit floats (e4m3fn, e5m2).";

/// Endings of names that a quantiser's files have, and its name.
struct Quantiser {
  std::string_view ending, name;
};
constexpr Quantiser kQuantisers[] = {
    {".qweight", "GPTQ or AWQ"},
    {".qzeros", "GPTQ or AWQ"},
    {".absmax", "bitsandbytes"},
    {".quant_map", "bitsandbytes"},
    {".SCB", "bitsandbytes"},
    {".weight_format", "bitsandbytes"},
    {".quant_state.bitsandbytes__nf4", "bitsandbytes"},
    {".quant_state.bitsandbytes__fp4", "bitsandbytes"},
    {".weight._data", "optimum-quanto"},
    {".weight_qdata", "torchao"},
};

/// What a name is of, in other models: a part of it, and the model's.
struct OtherModel {
  std::string_view part, name;
};
constexpr OtherModel kOthers[] = {
    {"first_stage_model.", "a whole Stable Diffusion checkpoint, whose UNet has no temporal layers"},
    {"time_pos_embed.", "Stable Video Diffusion or another model with TransformerSpatioTemporalModel"},
    {"temporal_transformer_blocks.", "Stable Video Diffusion or another model with TransformerSpatioTemporalModel"},
    {"time_stack.", "Stable Video Diffusion's original UNet"},
    {"text_model.encoder.", "a CLIP text encoder"},
    {"single_transformer_blocks.", "a Flux-like transformer"},
    {"decoder.up_blocks.", "a VAE"},
    {"down_blocks.0.resnets.", "a UNet of images, without temporal layers"},
    {"input_blocks.0.0.", "a UNet of images, without temporal layers"},
};

std::string quantiser_of(const Checkpoint& checkpoint) {
  const auto known = [](std::string_view name) -> std::string {
    for (const Quantiser& quantiser : kQuantisers)
      if (name.ends_with(quantiser.ending)) return std::string(quantiser.name);
    return {};
  };
  for (const auto& [name, view] : checkpoint.tensors())
    if (std::string found = known(name); !found.empty()) return found;
  for (const auto& [name, what] : checkpoint.ignored()) {
    if (std::string found = known(name); !found.empty()) return found;
    if (what.find("torchao.") != std::string::npos) return "torchao";
    if (what.find("bitsandbytes.") != std::string::npos) return "bitsandbytes";
    if (what.find("optimum.quanto.") != std::string::npos) return "optimum-quanto";
  }
  return {};
}

/// "a LoRA of rank 4 for 88 layers ..."; empty for what is none.
std::string lora_in(const Checkpoint& checkpoint) {
  std::size_t layers = 0;
  std::int64_t rank = 0;
  bool temporal = false;
  for (const auto& [name, view] : checkpoint.tensors()) {
    const auto key = model::read_lora_key(name);
    if (!key || key->part != model::LoraKey::Part::down || view.rank() < 2) continue;
    ++layers;
    rank = std::max(rank, view.size(0));
    temporal = temporal || model::lora_target(key->layer);
  }
  if (layers == 0) return {};
  const std::string file = checkpoint.where();
  return "It is a LoRA of rank " + std::to_string(rank) + " for " + std::to_string(layers) + " layers" +
         (temporal ? ": merge it into its base with kineograph convert BASE OUT --lora " + file + "."
                   : ", none of which is a temporal module's.");
}

/// Whether there are weights of temporal modules, and be it damaged ones. Some LoRAs bring positions along.
bool holds_weights(const Checkpoint& checkpoint) {
  return std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(), [](const auto& named) {
    const auto place = model::place_of(named.first);
    return place && !place->module.empty() && !model::is_adapter_key(named.first) &&
           !place->parameter.ends_with(".pos_encoder.pe");
  });
}

}  // namespace

std::string other_contents(const Checkpoint& checkpoint) {
  if (const std::string quantised = model::quantised(checkpoint); !quantised.empty()) return quantised.substr(1);
  if (holds_weights(checkpoint)) return {};
  if (std::string lora = lora_in(checkpoint); !lora.empty()) return lora;
  for (const auto& [name, what] : checkpoint.ignored())
    if (what.starts_with("a whole pickled model"))
      return "At \"" + shortened(name) + "\" it holds " + what +
             ", which is not run: save its weights instead, torch.save(model.state_dict(), PATH).";
  for (const OtherModel& other : kOthers)
    for (const auto& [name, view] : checkpoint.tensors())
      if (name.find(other.part) != std::string::npos) return "It seems to be " + std::string(other.name) + ".";
  return {};
}

std::string model::quantised(const Checkpoint& checkpoint) {
  const std::string quantiser = quantiser_of(checkpoint);
  if (quantiser.empty()) return {};
  return "\nIt holds weights that " + quantiser + " quantised, which are not read." + kUnquantised;
}

CheckpointError model::no_modules(const Checkpoint& checkpoint, const std::string& kind) {
  const std::string known = other_contents(checkpoint);
  return {checkpoint.where(), "at least one " + kind + " module",
          "none among " + std::to_string(checkpoint.tensors().size()) + " tensors",
          known.empty() ? "Known are the layouts of docs/checkpoints.md." : known};
}

CheckpointError model::several_sets(const Checkpoint& checkpoint, const std::string& kind,
                                    const std::vector<std::string>& paths) {
  return CheckpointError(printable(checkpoint.where()) + ": expected one set of " + kind +
                         " modules, found several that differ, below the paths" + first_of(paths) +
                         "\nChoose one of them (--select PATH).");
}

}  // namespace kineograph

#include "model/found.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "base/same_values.h"
#include "base/text.h"
#include "model/lora_keys.h"
#include "model/parameters.h"
#include "model/reading.h"
#include "model/widen.h"

namespace kineograph {
namespace {

using model::Found;
using model::UNetConfig;

constexpr std::string_view kOriginalPositions = ".pos_encoder.pe", kPositions = ".pos_embed.pe";

// What published models have where no shape and no file says otherwise.
constexpr std::int64_t kMotionHeads = 8, kHeadDim = 64, kInputHeads = 8, kGroups = 32;
// AnimateLCM's motion modules come without positions; its source has 64.
constexpr std::int64_t kLcmPositions = 64;
// MotionAdapter's motion_max_seq_length where its config.json does not say.
constexpr std::int64_t kAdapterPositions = 32;
// As TransformerTemporalConfig::validate has it: beyond, tensors are no module's.
constexpr std::int64_t kMaxWidth = 1 << 20, kMaxTable = std::int64_t{1} << 32;

/// Conv1d weights (out, in, 1) are Linear ones (out, in).
TensorView as_linear(const TensorView& view) {
  if (view.rank() != 3 || view.size(2) != 1) return view;
  return TensorView(view.data(), view.dtype(), Shape{view.size(0), view.size(1)},
                    Dims{view.strides()[0], view.strides()[1]});
}

/// Fills what shapes say; false for tensors that make no module.
bool read_shapes(const Found& found, TransformerTemporalConfig& config) {
  const TensorView norm = found.find("norm.weight"), in = found.find("proj_in.weight");
  const TensorView proj = found.find("transformer_blocks.0.ff.net.0.proj.weight");
  if (norm.rank() != 1 || in.rank() != 2 || proj.rank() != 2) return false;
  // Integers are some quantiser's, packed into other shapes.
  for (const TensorView& view : {in, proj})
    if (!is_floating(model::read_dtype(view.dtype()))) return false;
  const std::int64_t inner = in.size(0);
  if (inner < 1 || inner > kMaxWidth || norm.size(0) < 1 || norm.size(0) > kMaxWidth) return false;
  config.in_channels = norm.size(0);
  config.num_layers = 0;
  while (found.find("transformer_blocks." + std::to_string(config.num_layers) + ".ff.net.0.proj.weight"))
    ++config.num_layers;
  config.attention_bias = static_cast<bool>(found.find("transformer_blocks.0.attn1.to_q.bias"));
  config.norm_elementwise_affine = static_cast<bool>(found.find("transformer_blocks.0.norm1.weight"));
  const TensorView key = found.find("transformer_blocks.0.attn2.to_k.weight");
  config.double_self_attention = key.rank() == 2 && key.size(1) == inner;
  if (key.rank() == 2 && key.size(1) != inner) config.cross_attention_dim = key.size(1);
  config.activation_fn = proj.size(0) == 4 * inner ? Activation::gelu : Activation::geglu;
  return true;
}

void read_heads(const std::string& name, const Found& found, const UNetConfig& unet, TemporalModule& module) {
  const std::int64_t inner = found.find("proj_in.weight").size(0);
  const bool motion = is_motion(found.layout);
  const auto assume = [&](const char* key, std::optional<std::int64_t> known, std::int64_t published) {
    if (!known) module.assumed.emplace_back(key);
    return known.value_or(published);
  };
  const char* key = motion ? "num_attention_heads" : "attention_head_dim";
  std::int64_t divisor = kInputHeads;  // diffusers' and ModelScope's code has no other in transformer_in
  if (motion) {
    divisor = assume(key, unet.integer("motion_num_attention_heads", name), kMotionHeads);
  } else if (name != "transformer_in") {
    std::optional<std::int64_t> known = unet.integer("num_attention_heads", name);
    if (!known) known = unet.integer("attention_head_dim", name);
    divisor = assume(key, known, kHeadDim);
  }
  if (inner % divisor != 0)
    throw ConfigError((name.empty() ? "the module" : "module " + name) + ": " + key,
                      "a divisor of its inner width " + std::to_string(inner), std::to_string(divisor),
                      "Put the right config.json beside the file: no shape says it, and this is what " +
                          (module.assumed.empty() ? unet.path().string() + " says." : "published models have."));
  const bool counts_heads = motion || name == "transformer_in";
  module.config.num_attention_heads = counts_heads ? divisor : inner / divisor;
  module.config.attention_head_dim = counts_heads ? inner / divisor : divisor;
  std::optional<std::int64_t> groups = motion ? unet.integer("motion_norm_num_groups", name) : std::nullopt;
  if (!groups) groups = unet.integer("norm_num_groups", name);  // UNetMotionModel's motion modules have the UNet's
  module.config.norm_num_groups = assume("norm_num_groups", groups, kGroups);
}

void read_positions(const std::string& name, const Found& found, const UNetConfig& unet, TemporalModule& module) {
  std::int64_t positions = found.positions;
  // Motion modules have positions whether the file keeps them or not.
  if (positions == 0 && is_motion(found.layout)) {
    const auto known = unet.integer("motion_max_seq_length", name);
    if (!known) module.assumed.emplace_back("num_positional_embeddings");
    positions = known.value_or(found.layout == Layout::animatediff ? kLcmPositions : kAdapterPositions);
  }
  if (positions == 0) return;
  module.config.positional_embeddings = PositionalEmbeddings::sinusoidal;
  module.config.num_positional_embeddings = positions;
}

/// "transformer_blocks.0" of "transformer_blocks.0.attn1.pos_encoder.pe".
std::string block_of(const std::string& name) { return name.substr(0, name.find('.', name.find('.') + 1)); }

/// Half a unit in the last place at 1, for a table in `dtype`: 2^-12 for f16, 2^-9 for bf16; and what sines of
/// two libraries may differ by in f32, 2^-18: an angle of 64 is rounded by as much.
double rounding_of(DType dtype) { return dtype == DType::f16 ? 0x1p-12 : dtype == DType::bf16 ? 0x1p-9 : 0x1p-18; }

/// Whether a table in 16 bits is the formula's but for its rounding.
bool is_formula(const TensorView& table) {
  if (table.dtype() != DType::f16 && table.dtype() != DType::bf16) return false;
  const Tensor stored = convert(table, DType::f32), formula = model::sinusoidal_positions(table.size(1), table.size(2));
  const double tolerance = rounding_of(table.dtype()) + rounding_of(DType::f32);
  for (std::int64_t i = 0; i < stored.numel(); ++i)
    if (!(std::abs(static_cast<double>(stored.data_as<float>()[i]) - formula.data_as<float>()[i]) <= tolerance))
      return false;
  return true;
}

/// The original has a table for each attention, all alike; diffusers one a block. A stored table wins over the formula.
void take_original_positions(Found& found, TemporalModule& module) {
  std::map<std::string, std::string> first;  // block -> its first table
  for (const auto& [name, view] : found.original_positions) {
    const std::string block = block_of(name);
    const auto [taken, added] = first.emplace(block, name);
    if (view.rank() != 3 || view.size(0) != 1 || !is_floating(view.dtype()) || view.numel() > kMaxTable) {
      found.problem += "\n  misshapen positions " + shortened(name) + " " + to_string(view.shape());
    } else if (!added) {
      if (!same_values(view, found.original_positions.at(taken->second)))
        found.problem += "\n  other positions in " + shortened(name) + " than in " + shortened(taken->second) +
                         ", where a block has one table";
      module.recomputed.push_back(found.sources.at(name));
    } else if (is_formula(view)) {
      module.recomputed.push_back(found.sources.at(name));
    } else {
      found.tensors[block + std::string(kPositions)] = view;
      found.sources[block + std::string(kPositions)] = found.sources.at(name);
    }
  }
}

}  // namespace

namespace model {

TensorView Found::find(const std::string& name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() ? TensorView() : found->second;
}

void Found::add(const std::string& key, const Place& place, const TensorView& view) {
  const std::string& name = place.parameter;
  if (is_adapter_key(name)) return adapter.push_back(key);
  if (is_input_scale(name)) return;
  const auto [source, added] = sources.emplace(name, key);
  if (!added)
    throw CheckpointError("module " + place.module, "one tensor for " + shortened(name),
                          shortened(source->second) + " and " + shortened(key));
  if (place.layout == Layout::animatediff) layout = place.layout;
  if (const auto weight = scaled_parameter(name)) {
    scales[*weight] = {view, key};
    return;
  }
  const bool original = name.ends_with(kOriginalPositions);
  if ((original || name.ends_with(kPositions)) && view.rank() == 3) positions = view.size(1);
  if (original) {
    original_positions[name] = view;
    return;
  }
  const bool projection = name == "proj_in.weight" || name == "proj_out.weight";
  tensors[name] = projection ? as_linear(view) : view;
}

bool Found::is_readable() const {
  TransformerTemporalConfig config;
  return read_shapes(*this, config);
}

TemporalModule make_module(const std::string& name, Found found, const UNetConfig& unet) {
  TemporalModule module;
  module.name = name;
  module.layout = found.layout;
  module.adapter = found.adapter;
  module.scales = found.scales;
  if (name.empty() && unet.is_of("TransformerTemporalModel")) {
    module.config = TransformerTemporalConfig::from_file(unet.path());
  } else if (read_shapes(found, module.config)) {
    read_heads(name, found, unet, module);
    read_positions(name, found, unet, module);
  } else {
    found.problem = "\n  missing or misshapen norm.weight, proj_in.weight or transformer_blocks.0.ff.net.0.proj.weight";
  }
  take_original_positions(found, module);
  for (const auto& [parameter, view] : found.tensors) {
    module.state_dict.push_back({parameter, view});
    module.sources.push_back(found.sources.at(parameter));
  }
  module.problem = found.problem.empty() ? problems_of(module.config, module) : found.problem;
  return module;
}

}  // namespace model
}  // namespace kineograph

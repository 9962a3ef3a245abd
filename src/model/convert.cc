#include "kineograph/convert.h"

#include <algorithm>
#include <map>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/printable.h"
#include "checkpoint/safetensors.h"
#include "model/contents.h"
#include "model/folder.h"
#include "model/found.h"
#include "model/layouts.h"
#include "model/parameters.h"
#include "model/positions.h"
#include "model/widen.h"

namespace kineograph {
namespace {

using checkpoint::LazyTensor;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

std::string pe_name(std::int64_t layer) { return "transformer_blocks." + std::to_string(layer) + ".pos_embed.pe"; }

class Converter {
 public:
  Converter(const Checkpoint& checkpoint, const ConvertOptions& options)
      : checkpoint_(checkpoint), options_(options), set_(model::only_set(checkpoint)), modules_(set_.modules) {
    if (modules_.empty()) throw model::no_modules(checkpoint);
    if (options.dtype && *options.dtype != DType::f32 && *options.dtype != DType::f16 && *options.dtype != DType::bf16)
      throw ArgumentError("dtype", "f32, f16 or bf16", std::string(name_of(*options.dtype)));
    if (options.to != Layout::module && !options.module.empty())
      throw ArgumentError("module", "none, as all modules are written", options.module);
    for (const auto& [lora, scale] : options.loras)
      loras_.emplace_back(lora.fitted_to(modules_, options.strict), scale);
  }

  /// The LoRAs as they are merged, and what of them is not.
  const LoraStack& loras() const { return loras_; }

  void write(const std::filesystem::path& output) {
    if (options_.to == Layout::animatediff) {
      for (const char* ending : {".ckpt", ".pth", ".pt", ".bin"})
        if (output.extension() == ending)
          throw ArgumentError("output", "a name ending with .safetensors, as that is what is written", output.string());
      require_motion();
      for (const TemporalModule& module : modules_) add_module(module);
      add_conv_in();
      AtomicFile file(output);
      write_tensors(file);
      return file.commit();
    }
    std::string config;
    if (options_.to == Layout::module) {
      const TemporalModule& module = chosen();
      add_module(module);
      config = config_of(module).to_json();
    } else if (options_.to == Layout::motion_adapter) {
      require_motion();
      for (const TemporalModule& module : modules_) add_module(module);
      config = adapter_config().dump(2) + "\n";
      add_conv_in();
    } else {
      throw ArgumentError("to", "a single module, a MotionAdapter or the original AnimateDiff",
                          std::string(name_of(options_.to)));
    }
    model::save_folder(output, kWeights, config, [&](AtomicFile& file) { write_tensors(file); });
  }

 private:
  void write_tensors(AtomicFile& file) const {
    checkpoint::write_safetensors(file, tensors_, {{"format", "pt"}}, options_.on_progress);
    checkpoint_.check_unchanged();  // before the file takes its name
  }

  const std::string& where() const { return checkpoint_.where(); }

  const TemporalModule& chosen() const {
    std::string known;
    for (const TemporalModule& module : modules_) {
      if (module.name == options_.module || (options_.module.empty() && modules_.size() == 1)) return module;
      known += (known.empty() ? "" : ", ") + module.name;
    }
    throw ArgumentError("module", "one of " + known, options_.module.empty() ? "none" : options_.module);
  }

  void require_motion() const {
    for (const TemporalModule& module : modules_) {
      if (!is_motion(module.layout))
        throw ArgumentError("to", "a single module, as " + where() + " has no motion modules",
                            "the layout of " + std::string(name_of(options_.to)));
      if (options_.to == Layout::motion_adapter && !module.config.double_self_attention)
        throw ArgumentError("to", "motion modules with two self-attentions, as MotionAdapter has them",
                            module.name + ", which has one");
    }
  }

  TransformerTemporalConfig config_of(const TemporalModule& module) const {
    return model::with_positions(module.config, options_.num_positional_embeddings, where());
  }

  std::string name_in_output(const TemporalModule& module, const std::string& parameter) const {
    if (options_.to == Layout::module) return parameter;
    if (options_.to == Layout::motion_adapter) return module.name + "." + parameter;
    return model::animatediff_key(module.name, parameter);
  }

  /// Tables in 16 bits that stand for the formula's values: written in their own dtype they keep their bits.
  std::map<std::string, TensorView> formula_tables(const TemporalModule& module) const {
    std::map<std::string, TensorView> tables;
    for (const std::string& source : module.recomputed) {
      const auto place = model::place_of(source);
      const TensorView table = checkpoint_.find(source);
      if (!place || options_.dtype.value_or(module.dtype()) != table.dtype()) continue;
      const std::string& name = place->parameter;  // "transformer_blocks.0.attn1.pos_encoder.pe"
      tables.emplace(name.substr(0, name.find('.', name.find('.') + 1)) + ".pos_embed.pe", table);
    }
    return tables;
  }

  /// That of the stored table, else the module's.
  static DType positions_dtype(const TemporalModule& module, const std::map<std::string, TensorView>& stored,
                               std::int64_t layer) {
    const auto table = stored.find(pe_name(layer));
    return table == stored.end() ? module.dtype() : table->second.dtype();
  }

  /// The stored table, or the formula's where there is none, with as many rows as are written.
  Tensor longer_positions(const TemporalModule& module, const TensorView& stored, std::int64_t rows) const {
    const TransformerTemporalConfig& config = module.config;
    Tensor formula;
    if (!stored) formula = model::sinusoidal_positions(*config.num_positional_embeddings, config.inner_dim());
    return model::extended_positions(stored ? stored : formula.view(), rows, options_.position_extension);
  }

  /// A parameter as it is written: widened, with LoRAs merged, as `dtype`.
  TensorView value_of(const TemporalModule& module, std::size_t i, DType dtype, Tensor& scratch) const {
    const auto& [name, stored] = module.state_dict[i];
    checkpoint_.verify(module.sources[i]);
    TensorView value = stored;
    Tensor widened;
    if (model::is_eight_bit(stored.dtype())) {
      const auto scale = module.scales.find(name);
      if (scale != module.scales.end()) checkpoint_.verify(scale->second.source);
      widened = model::widened(stored, scale == module.scales.end() ? TensorView() : scale->second.value);
      value = widened;
    }
    scratch = merged_weight(loras_, module.name, name, value, dtype);
    if (scratch) return scratch;
    if (stored.dtype() == dtype) return stored;
    scratch = widened && dtype == widened.dtype() ? std::move(widened) : kineograph::convert(value, dtype);
    return scratch;
  }

  void add_module(const TemporalModule& module) {
    if (!module.problem.empty())
      throw CheckpointError("Module " + module.name + " of " + printable(where()) +
                            " cannot be converted:" + module.problem + model::quantised(checkpoint_));
    const TransformerTemporalConfig config = config_of(module);
    std::map<std::string, TensorView> stored_positions = formula_tables(module);
    for (std::size_t i = 0; i < module.state_dict.size(); ++i) {
      const Parameter& parameter = module.state_dict[i];
      if (parameter.name.ends_with(".pos_embed.pe")) {
        stored_positions[parameter.name] = parameter.value;
        continue;
      }
      const DType dtype = options_.dtype.value_or(model::read_dtype(parameter.value.dtype()));
      const auto make = [this, &module, i, dtype](Tensor& scratch) { return value_of(module, i, dtype, scratch); };
      tensors_.push_back({name_in_output(module, parameter.name), dtype, parameter.value.shape(), make,
                          [this, source = module.sources[i]] { checkpoint_.release(source); }});
    }
    if (config.positional_embeddings == PositionalEmbeddings::none) return;
    for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
      const std::int64_t rows = *config.num_positional_embeddings;
      const DType dtype = options_.dtype.value_or(positions_dtype(module, stored_positions, layer));
      const auto stored = stored_positions.find(pe_name(layer));
      const TensorView table = stored == stored_positions.end() ? TensorView() : stored->second;
      const auto make = [this, &module, table, rows, dtype](Tensor& scratch) -> TensorView {
        if (table && table.dtype() == dtype && table.size(1) == rows) return table;
        scratch = kineograph::convert(longer_positions(module, table, rows), dtype);
        return scratch;
      };
      const Shape shape{1, rows, config.inner_dim()};
      if (options_.to != Layout::animatediff) {
        tensors_.push_back({name_in_output(module, pe_name(layer)), dtype, shape, make});
        continue;
      }
      // The original has the table once an attention.
      const std::string block = "transformer_blocks." + std::to_string(layer) + ".";
      for (const char* attention : {"attn1", "attn2"})
        if (std::string(attention) == "attn1" || module.config.has_attn2())
          tensors_.push_back({name_in_output(module, block + attention + ".pos_encoder.pe"), dtype, shape, make});
    }
  }

  /// A tensor beside the modules, under what stands before them.
  std::string beside(const char* name) const { return set_.path == kRoot ? name : set_.path + "." + name; }

  /// PIA's adapters bring the UNet's first convolution, for nine channels. A whole UNet has one of its own, which is
  /// PIA's where it is for other than the four channels of a latent.
  bool has_conv_in() const {
    const TensorView conv_in = checkpoint_.find(beside("conv_in.weight"));
    if (conv_in.rank() != 4) return false;
    return conv_in.size(1) != 4 || !checkpoint_.find(beside("time_embedding.linear_1.weight"));
  }
  Tensor widened_conv_in(const TensorView& weight) const {
    for (const char* name : {"conv_in.scale_weight", "conv_in.weight_scale"})
      if (const TensorView scale = checkpoint_.find(beside(name))) {
        if (const std::string problem = model::scale_problem(weight, scale); !problem.empty())
          throw CheckpointError(printable(where()) + ": " + name + ": " + problem);
        return model::widened(weight, scale);
      }
    return model::widened(weight, {});
  }
  void add_conv_in() {
    if (!has_conv_in()) return;
    for (const char* name : {"conv_in.weight", "conv_in.bias"}) {
      const TensorView view = checkpoint_.find(beside(name));
      if (!view) continue;
      const DType dtype = options_.dtype.value_or(model::read_dtype(view.dtype()));
      tensors_.push_back({name, dtype, view.shape(), [this, name, view, dtype](Tensor& scratch) -> TensorView {
                            checkpoint_.verify(beside(name));
                            if (model::is_eight_bit(view.dtype())) {
                              scratch = kineograph::convert(widened_conv_in(view), dtype);
                              return scratch;
                            }
                            scratch = kineograph::convert(view, dtype);
                            return scratch;
                          }});
    }
  }

  /// A MotionAdapter has one value of these for a block, and one of groups and positions for all.
  void require_same(const TransformerTemporalConfig& block, const TransformerTemporalConfig& first,
                    const TemporalModule& module) const {
    const TransformerTemporalConfig& config = module.config;
    const auto positions = [this](const TemporalModule& of) { return config_of(of).num_positional_embeddings; };
    const char* differs = config.in_channels != block.in_channels                   ? "channels"
                          : config.num_layers != block.num_layers                   ? "layers"
                          : config.num_attention_heads != block.num_attention_heads ? "heads"
                          : config.norm_num_groups != first.norm_num_groups         ? "groups"
                          : positions(module) != positions(modules_.front())        ? "positions"
                                                                                    : nullptr;
    if (differs != nullptr)
      throw ArgumentError("to", "motion modules that one MotionAdapter can have",
                          "other " + std::string(differs) + " in " + module.name);
  }

  /// MotionAdapter's config.json: what its constructor needs to make these modules.
  Json adapter_config() const {
    std::map<std::int64_t, std::vector<const TemporalModule*>> down, up;
    std::vector<const TemporalModule*> middle;
    for (const TemporalModule& module : modules_) {
      const auto number = [&] { return std::stoll(module.name.substr(module.name.find('.') + 1)); };
      if (module.name.starts_with("down_blocks."))
        down[number()].push_back(&module);
      else if (module.name.starts_with("up_blocks."))
        up[number()].push_back(&module);
      else
        middle.push_back(&module);
    }
    const auto refuse = [&](const std::string& found) {
      throw ArgumentError("to", "motion modules in the places that MotionAdapter has", found);
    };
    if (down.empty() || up.size() != down.size()) refuse("as many down_blocks as up_blocks, not");
    Json::Array channels, layers, depths, heads;
    for (const TemporalModule* module : middle) {
      require_same(middle.front()->config, modules_.front().config, *module);
      if (module->config.num_attention_heads != down.rbegin()->second.front()->config.num_attention_heads)
        refuse("other heads in " + module->name + " than in the lowest block");
    }
    for (const auto& [number, modules] : down) {
      const TransformerTemporalConfig& config = modules.front()->config;
      if (number != static_cast<std::int64_t>(channels.size()))
        refuse("a gap before down_blocks." + std::to_string(number));
      const auto above = up.find(static_cast<std::int64_t>(down.size()) - 1 - number);
      if (above == up.end() || above->second.size() != modules.size() + 1)
        refuse("not one module more in up_blocks than in down_blocks." + std::to_string(number));
      for (const std::vector<const TemporalModule*>& side : {modules, above->second})
        for (const TemporalModule* module : side) require_same(config, modules_.front().config, *module);
      channels.push_back(*config.in_channels);
      layers.push_back(modules.size());
      depths.push_back(config.num_layers);
      heads.push_back(config.num_attention_heads);
    }
    const auto one_or_list = [](const Json::Array& values) {
      return std::all_of(values.begin(), values.end(), [&](const Json& v) { return v == values[0]; }) ? values[0]
                                                                                                      : Json(values);
    };
    const TransformerTemporalConfig first = config_of(modules_.front());
    Json json;
    json["_class_name"] = "MotionAdapter";
    json["block_out_channels"] = channels;
    json["motion_layers_per_block"] = one_or_list(layers);
    json["motion_transformer_layers_per_block"] = one_or_list(depths);
    json["motion_mid_block_layers_per_block"] = std::max<std::size_t>(middle.size(), 1);
    json["motion_transformer_layers_per_mid_block"] = middle.empty() ? 1 : middle.front()->config.num_layers;
    json["motion_num_attention_heads"] = one_or_list(heads);
    json["motion_norm_num_groups"] = first.norm_num_groups;
    json["motion_max_seq_length"] = first.num_positional_embeddings.value_or(32);
    json["use_motion_mid_block"] = !middle.empty();
    json["conv_in_channels"] = has_conv_in() ? Json(checkpoint_.find(beside("conv_in.weight")).size(1)) : Json(nullptr);
    return json;
  }

  const Checkpoint& checkpoint_;
  const ConvertOptions& options_;
  ModuleSet set_;
  std::vector<TemporalModule>& modules_;
  LoraStack loras_;
  std::vector<LazyTensor> tensors_;
};

}  // namespace

ConvertReport convert(const Checkpoint& checkpoint, const std::filesystem::path& output,
                      const ConvertOptions& options) {
  Converter converter(checkpoint, options);
  ConvertReport report;
  for (const auto& [lora, scale] : converter.loras())
    report.loras.push_back({lora.where(), scale, lora.deltas().size(), lora.skipped()});
  converter.write(output);
  return report;
}

}  // namespace kineograph

// The models: from tensors to a prepared plan, and back to files.
#include "kineograph/model.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>

#include "base/mapped_file.h"
#include "base/text.h"
#include "base/threads.h"
#include "checkpoint/safetensors.h"
#include "engine/engine.h"
#include "kineograph/checkpoint.h"
#include "model/folder.h"
#include "model/impl.h"
#include "model/parameters.h"
#include "model/positions.h"
#include "model/reading.h"
#include "model/sharing.h"

namespace kineograph {
namespace {

const engine::Engine& find_engine(const std::string& name) {
  if (name == "auto") return *engine::engines().front();
  for (const engine::Engine* known : engine::engines())
    if (known->name() == name) return *known;
  throw ArgumentError("engine", "auto or one of " + joined(engines(), ", "), name,
                      name == "cuda" ? "There is no engine cuda here: " + engine::why_no_cuda() + "." : "");
}

/// The dtype that holds most elements.
DType main_dtype(const std::vector<Parameter>& parameters) {
  std::map<DType, std::int64_t> counts;
  for (const Parameter& parameter : parameters) counts[parameter.value.dtype()] += parameter.value.numel();
  DType most = DType::f32;
  for (const auto& [dtype, count] : counts)
    if (count > counts[most]) most = dtype;
  return most;
}

/// The parameter that a filled slot stands for.
void keep(ModelMixin::Impl& impl, const model::Slot& slot) {
  impl.parameters.push_back({slot.name, *slot.view});
  *slot.view = model::as_engine_sees(*slot.view);
}

/// The weights that tokens are multiplied with, which an engine packs. They may stay where they are; whatever else a
/// forward or a backward reads is the model's own, so that a file that changes on the disk does not change an answer.
std::set<const void*> packed_weights(const engine::Weights& weights) {
  std::set<const void*> found;
  engine::each_linear(weights, [&](const engine::Linear& linear) {
    for (const TensorView* view : {&linear.weight, &linear.bias})
      if (*view) found.insert(view->data());
  });
  return found;
}

/// Copies what has to be the model's own, or everything; then no file is needed any more.
void copy_slots(ModelMixin::Impl& impl, const std::vector<model::Slot>& slots, bool all) {
  const std::set<const void*> packed = packed_weights(impl.weights);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    TensorView& value = impl.parameters[i].value;
    const bool mapped = checkpoint::mapped_file_at(value.data()) != nullptr;
    if (!all && (!mapped || packed.contains(value.data()))) continue;
    impl.tensors.push_back(convert(value, value.dtype()));
    value = impl.tensors.back();
    *slots[i].view = model::as_engine_sees(value);
  }
}

void check_unchanged(const std::vector<Parameter>& parameters) {
  for (const Parameter& parameter : parameters) checkpoint::check_unchanged(parameter.value.data());
}

/// Puts the state dict's tensors where the engine looks for them. Everything that does not fit is named at once.
void fill_slots(ModelMixin::Impl& impl, const std::vector<model::Slot>& slots,
                const std::vector<Parameter>& state_dict) {
  const std::string problems = model::state_dict_problems(slots, state_dict);
  if (!problems.empty()) throw CheckpointError("The checkpoint does not fit its configuration:" + problems);
  std::map<std::string_view, const TensorView*> given;
  for (const Parameter& parameter : state_dict) given[parameter.name] = &parameter.value;
  TensorView positions;
  for (const model::Slot& slot : slots) {
    const auto found = given.find(slot.name);
    if (found == given.end()) {
      // One table for all layers, as they are of one width: a small file must not take much memory.
      if (!positions) {
        impl.tensors.push_back(model::sinusoidal_positions(slot.shape[1], slot.shape[2]));
        positions = impl.tensors.back();
      }
      *slot.view = positions;
    } else if (const TensorView& view = *found->second; !view.is_contiguous()) {
      impl.tensors.push_back(convert(view, view.dtype()));
      *slot.view = impl.tensors.back();
    } else {
      *slot.view = view;
    }
    keep(impl, slot);
  }
}

/// (1, N, I) of the position tables that a configuration's file may have.
Shape stored_table(const ModelConfig& config) {
  const auto& temporal = std::get<TransformerTemporalConfig>(config);
  return {1, *temporal.num_positional_embeddings, temporal.inner_dim()};
}

/// A table of that shape with the rows that are asked for, in its own dtype.
Tensor lengthened(const TensorView& table, const ModelOptions& options) {
  return convert(model::extended_positions(table, *options.num_positional_embeddings, options.position_extension),
                 table.dtype());
}

/// The state dict with tables of as many rows as the slots have, where there are others; they are the model's own.
std::vector<Parameter> with_longer_positions(ModelMixin::Impl& impl, const std::vector<model::Slot>& slots,
                                             std::vector<Parameter> state_dict, const ModelConfig& stored,
                                             const ModelOptions& options) {
  const Shape shape = stored_table(stored);
  const auto lengthen = [&](const TensorView& table) -> TensorView {
    impl.tensors.push_back(lengthened(table, options));
    return impl.tensors.back();
  };
  TensorView made;
  for (const model::Slot& slot : slots) {
    if (slot.role != model::Role::positions) continue;
    const auto found = std::find_if(state_dict.begin(), state_dict.end(),
                                    [&](const Parameter& parameter) { return parameter.name == slot.name; });
    if (found == state_dict.end()) {
      if (!made) made = lengthen(model::sinusoidal_positions(shape[1], shape[2]));
      state_dict.push_back({slot.name, made});
    } else if (found->value.shape() == shape) {
      found->value = lengthen(found->value);
    }
  }
  return state_dict;
}

ModelConfig with_overrides(ModelConfig config, const ModelOptions& options) {
  if (options.group_norm_scope) {
    auto* temporal = std::get_if<TransformerTemporalConfig>(&config);
    if (temporal == nullptr)
      throw ArgumentError(
          "group_norm_scope",
          "none, as the GroupNorm of " + std::string(class_name(config)) + " spans a row of hidden_states",
          std::string(name_of(*options.group_norm_scope)));
    temporal->group_norm_scope = *options.group_norm_scope;
  }
  if (options.num_positional_embeddings) {
    auto* temporal = std::get_if<TransformerTemporalConfig>(&config);
    if (temporal == nullptr)
      throw ArgumentError("num_positional_embeddings",
                          "none, as " + std::string(class_name(config)) + " has no positions",
                          std::to_string(*options.num_positional_embeddings));
    *temporal = model::with_positions(std::move(*temporal), options.num_positional_embeddings, "the model's");
  }
  std::visit([](const auto& one) { one.validate(); }, config);
  return config;
}

/// The engines that may run a model, the one to try first first.
std::vector<const engine::Engine*> candidates(const std::string& name) {
  if (name == "auto") return engine::engines();
  return {&find_engine(name)};
}

/// What was asked for; else the weights' own dtype where the engine computes in it; else f32.
DType choose_compute_dtype(const engine::Engine& engine, DType weights, std::optional<DType> asked) {
  const std::vector<DType> known = engine.compute_dtypes();
  const auto is_known = [&](DType dtype) { return std::find(known.begin(), known.end(), dtype) != known.end(); };
  const DType chosen = asked.value_or(is_known(weights) ? weights : DType::f32);
  if (is_known(chosen)) return chosen;
  std::string names;
  for (const DType dtype : known) names += (names.empty() ? "" : " or ") + std::string(name_of(dtype));
  throw ArgumentError("compute_dtype" + (engine.name() == "cuda" ? " of engine cuda" : std::string()), names,
                      std::string(name_of(chosen)),
                      asked ? "" : "It follows the weights, which are " + std::string(name_of(weights)) + ".");
}

void choose_engine(ModelMixin::Impl& impl, const ModelOptions& options) {
  impl.dtype = main_dtype(impl.parameters);
  for (const engine::Engine* engine : candidates(options.engine)) {
    impl.prepared = {choose_compute_dtype(*engine, impl.dtype, options.compute_dtype), options.isa, options.executor,
                     options.memory};
    if (!options.isa.empty()) {
      const std::vector<std::string> known = engine->instruction_sets();
      if (std::find(known.begin(), known.end(), options.isa) == known.end())
        throw ArgumentError("instruction set", "one of " + joined(known, ", ") + " on this machine", options.isa);
    }
    const std::optional<engine::Choice> choice = engine->choose(impl.config, impl.weights, impl.prepared);
    if (!choice) continue;
    impl.engine = engine;
    impl.choice = *choice;
    return;
  }
  throw ArgumentError("engine", "auto or one that runs " + std::string(class_name(impl.config)), options.engine);
}

/// Contents of a folder that save_pretrained wrote.
template <class Config>
std::shared_ptr<const ModelMixin::Impl> load_folder(const std::filesystem::path& directory,
                                                    const ModelOptions& options) {
  const auto config = Config::from_file(directory / "config.json", options.unknown_keys, options.on_warning);
  const Checkpoint checkpoint = Checkpoint::open(directory, {.variant = options.variant, .select = {}});
  const model::Reading reading = model::read_whole(checkpoint);
  return ModelMixin::Impl::from_state_dict(config, reading.state_dict, reading.owner, options);
}

}  // namespace

const engine::Plan& ModelMixin::Impl::plan() const {
  return plan_.get([this] {
    const RunningCall call;
    return engine->prepare(config, weights, prepared);
  });
}

std::shared_ptr<const ModelMixin::Impl> ModelMixin::Impl::from_state_dict(ModelConfig config,
                                                                          const std::vector<Parameter>& state_dict,
                                                                          std::shared_ptr<const void> owner,
                                                                          const ModelOptions& options) {
  auto impl = std::make_shared<Impl>();
  impl->config = with_overrides(config, options);
  impl->owner = std::move(owner);
  const std::vector<model::Slot> slots = model::parameter_slots(impl->config, impl->weights);
  if (options.num_positional_embeddings)
    fill_slots(*impl, slots, with_longer_positions(*impl, slots, state_dict, config, options));
  else
    fill_slots(*impl, slots, state_dict);
  choose_engine(*impl, options);
  const std::string key = model::sharing_key(state_dict, options, *impl);
  if (auto shared = model::find_shared(key)) return shared;
  copy_slots(*impl, slots, options.copy_weights);
  (void)impl->plan();
  check_unchanged(state_dict);
  if (options.copy_weights) impl->owner = nullptr;
  return model::share(key, std::move(impl));
}

std::shared_ptr<const ModelMixin::Impl> ModelMixin::Impl::from_config(ModelConfig config, std::uint64_t seed,
                                                                      const ModelOptions& options, DType dtype) {
  if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16)
    throw ArgumentError("dtype", "f32, f16 or bf16", std::string(name_of(dtype)));
  auto impl = std::make_shared<Impl>();
  impl->config = with_overrides(config, options);
  TensorView positions;
  for (const model::Slot& slot : model::parameter_slots(impl->config, impl->weights)) {
    const bool table = slot.role == model::Role::positions;
    if (!table || !positions) impl->tensors.push_back(model::seeded_parameter(slot, seed, dtype));
    if (table && !positions) {
      if (options.num_positional_embeddings) {
        Tensor& formula = impl->tensors.back();
        formula = lengthened({formula.data(), dtype, stored_table(config)}, options);
      }
      positions = impl->tensors.back();
    }
    *slot.view = table ? positions : impl->tensors.back();
    keep(*impl, slot);
  }
  choose_engine(*impl, options);
  return impl;
}

TransformerTemporalModel TransformerTemporalModel::from_pretrained(const std::filesystem::path& directory,
                                                                   ModelOptions options) {
  return TransformerTemporalModel(load_folder<TransformerTemporalConfig>(directory, options));
}
TransformerTemporalModel TransformerTemporalModel::from_config(const TransformerTemporalConfig& config,
                                                               std::uint64_t seed, ModelOptions options, DType dtype) {
  return TransformerTemporalModel(Impl::from_config(config, seed, options, dtype));
}
TransformerTemporalModel TransformerTemporalModel::from_state_dict(const TransformerTemporalConfig& config,
                                                                   const std::vector<Parameter>& state_dict,
                                                                   std::shared_ptr<const void> owner,
                                                                   ModelOptions options) {
  return TransformerTemporalModel(Impl::from_state_dict(config, state_dict, std::move(owner), options));
}
const TransformerTemporalConfig& TransformerTemporalModel::config() const noexcept {
  return *std::get_if<TransformerTemporalConfig>(&impl_->config);
}

Transformer2DModel Transformer2DModel::from_pretrained(const std::filesystem::path& directory, ModelOptions options) {
  return Transformer2DModel(load_folder<Transformer2DConfig>(directory, options));
}
Transformer2DModel Transformer2DModel::from_config(const Transformer2DConfig& config, std::uint64_t seed,
                                                   ModelOptions options, DType dtype) {
  return Transformer2DModel(Impl::from_config(config, seed, options, dtype));
}
Transformer2DModel Transformer2DModel::from_state_dict(const Transformer2DConfig& config,
                                                       const std::vector<Parameter>& state_dict,
                                                       std::shared_ptr<const void> owner, ModelOptions options) {
  return Transformer2DModel(Impl::from_state_dict(config, state_dict, std::move(owner), options));
}
const Transformer2DConfig& Transformer2DModel::config() const noexcept {
  return *std::get_if<Transformer2DConfig>(&impl_->config);
}

TransformerSpatioTemporalModel TransformerSpatioTemporalModel::from_pretrained(const std::filesystem::path& directory,
                                                                               ModelOptions options) {
  return TransformerSpatioTemporalModel(load_folder<TransformerSpatioTemporalConfig>(directory, options));
}
TransformerSpatioTemporalModel TransformerSpatioTemporalModel::from_config(
    const TransformerSpatioTemporalConfig& config, std::uint64_t seed, ModelOptions options, DType dtype) {
  return TransformerSpatioTemporalModel(Impl::from_config(config, seed, options, dtype));
}
TransformerSpatioTemporalModel TransformerSpatioTemporalModel::from_state_dict(
    const TransformerSpatioTemporalConfig& config, const std::vector<Parameter>& state_dict,
    std::shared_ptr<const void> owner, ModelOptions options) {
  return TransformerSpatioTemporalModel(Impl::from_state_dict(config, state_dict, std::move(owner), options));
}
const TransformerSpatioTemporalConfig& TransformerSpatioTemporalModel::config() const noexcept {
  return *std::get_if<TransformerSpatioTemporalConfig>(&impl_->config);
}

void ModelMixin::save_pretrained(const std::filesystem::path& directory, std::string_view variant) const {
  std::vector<checkpoint::LazyTensor> tensors;
  for (const Parameter& parameter : parameters()) {
    const TensorView& value = parameter.value;
    tensors.push_back({parameter.name, value.dtype(), value.shape(), [&value](Tensor&) { return value; }, {}});
  }
  const std::string dotted = variant.empty() ? "" : "." + std::string(variant);
  const std::string config = std::visit([](const auto& one) { return one.to_json(); }, impl_->config);
  model::save_folder(directory, "diffusion_pytorch_model" + dotted + ".safetensors", config, [&](AtomicFile& file) {
    checkpoint::write_safetensors(file, tensors, {{"format", "pt"}});
  });
}

const std::vector<Parameter>& ModelMixin::parameters() const {
  check_unchanged(impl_->parameters);
  return impl_->parameters;
}
DType ModelMixin::dtype() const noexcept { return impl_->dtype; }
std::string_view ModelMixin::engine() const noexcept { return impl_->engine->name(); }
std::string_view ModelMixin::isa() const noexcept { return impl_->choice.isa; }
DType ModelMixin::compute_dtype() const noexcept { return impl_->choice.compute_dtype; }

std::int64_t ModelMixin::num_parameters() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : impl_->parameters) count += parameter.value.numel();
  return count;
}

std::vector<std::string> TransformerTemporalModel::attention_names() const {
  std::vector<std::string> names;
  for (std::int64_t layer = 0; layer < config().num_layers; ++layer)
    for (int which = 1; which <= (config().has_attn2() ? 2 : 1); ++which)
      names.push_back(engine::attention_name(static_cast<std::size_t>(layer), static_cast<std::size_t>(which)));
  return names;
}

std::vector<std::string> engines() {
  std::vector<std::string> names;
  for (const engine::Engine* known : engine::engines()) names.emplace_back(known->name());
  return names;
}

double peak_gflops(std::string_view engine, const std::string& isa, DType compute_dtype, int threads) {
  return find_engine(std::string(engine)).peak_gflops(isa, compute_dtype, threads);
}

std::vector<std::string> instruction_sets(std::string_view name) {
  return find_engine(std::string(name)).instruction_sets();
}

}  // namespace kineograph

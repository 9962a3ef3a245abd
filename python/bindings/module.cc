// The extension module kineograph._native: the C++ library, call for call. kineograph/model.py is what users see.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>

#include "fingerprint.h"
#include "models.h"
#include "ranks.h"
#include "restoration.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kineograph::python {
namespace {

/// Length, stride and weighting of FreeNoise's windows.
using Context = std::optional<std::tuple<std::int64_t, std::int64_t, std::string>>;
using Kwargs = std::map<std::string, std::variant<bool, std::int64_t, double, std::string>>;

/// The library's exceptions as the classes of kineograph.errors, with their parts.
void raise(const char* name, const Error& error) {
  const nb::object type = nb::module_::import_("kineograph.errors").attr(name);
  const nb::object value = type(error.what(), error.where(), error.expected(), error.found(), error.hint());
  PyErr_SetObject(type.ptr(), value.ptr());
}

void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const ConfigError& error) {
    raise("ConfigError", error);
  } catch (const FormatError& error) {
    raise("FormatError", error);
  } catch (const CheckpointError& error) {
    raise("CheckpointError", error);
  } catch (const ArgumentError& error) {
    raise("ArgumentError", error);
  } catch (const CommunicationError& error) {
    raise("CommunicationError", error);
  } catch (const IoError& error) {
    raise("IoError", error);
  } catch (const Cancelled& error) {
    raise("Cancelled", error);
  } catch (const Error& error) {
    raise("Error", error);
  }
}

/// The model with LoRA files merged, each times its scale; a warning for what of them is this module's and does not
/// fit.
TransformerTemporalModel with_loras(TransformerTemporalModel base, const std::string& module,
                                    const ModelOptions& options,
                                    const std::vector<std::pair<std::string, double>>& loras, bool strict) {
  AdaptedModel adapted(std::move(base), module, options);
  for (std::size_t i = 0; i < loras.size(); ++i)
    for (const auto& [key, why] :
         adapted.add_lora(std::to_string(i), Lora::open(loras[i].first), loras[i].second, strict))
      options.on_warning(loras[i].first + ": left out " + key + ": " + why);
  return adapted.model();
}

TransformerTemporalModel from_pretrained(const std::string& directory, const std::string& module,
                                         const std::string& engine, const std::string& compute_dtype,
                                         const std::string& isa, const std::string& variant, const std::string& select,
                                         const std::string& group_norm_scope,
                                         const std::vector<std::pair<std::string, double>>& loras, bool strict,
                                         bool copy_weights, std::optional<std::int64_t> num_positional_embeddings,
                                         const std::string& extension) {
  Warnings warnings;
  ModelOptions options = model_options(engine, compute_dtype, isa, warnings);
  options.variant = variant;
  options.copy_weights = copy_weights;
  options.num_positional_embeddings = num_positional_embeddings;
  options.position_extension = position_extension(extension);
  options.unknown_keys = UnknownKeys::warn;
  if (!group_norm_scope.empty()) {
    if (group_norm_scope != "clip" && group_norm_scope != "frame")
      throw ArgumentError("group_norm_scope", "clip or frame", group_norm_scope);
    options.group_norm_scope = group_norm_scope == "clip" ? GroupNormScope::clip : GroupNormScope::frame;
  }
  auto model = [&] {
    const nb::gil_scoped_release free;
    const bool folder = module.empty() && select.empty() && !std::filesystem::is_regular_file(directory);
    if (folder && loras.empty()) return TransformerTemporalModel::from_pretrained(directory, options);
    const Checkpoint checkpoint = Checkpoint::open(directory, {variant, select});
    auto base = load(checkpoint, module, options);
    if (loras.empty()) return base;
    return with_loras(std::move(base), module.empty() ? temporal_modules(checkpoint).front().name : module, options,
                      loras, strict);
  }();
  warnings.issue();
  return model;
}

/// What a forward and its backward are given alike, with the arrays that keep its memory.
struct Call {
  Call(nb::handle hidden_states, std::int64_t num_frames, nb::handle encoder_hidden_states, nb::handle timestep,
       nb::handle class_labels, std::optional<std::uint64_t> training_seed, int num_threads, nb::handle on_progress,
       const RanksArgument& shared)
      : array(as_array("hidden_states", hidden_states)),
        input(view_of("hidden_states", array)),
        encoder("encoder_hidden_states", encoder_hidden_states),
        time("timestep", timestep),
        labels("class_labels", class_labels),
        progress(on_progress),
        ranks(shared) {
    options.num_frames = num_frames;
    options.encoder_hidden_states = encoder.view;
    options.timestep = time.view;
    options.class_labels = labels.view;
    options.training_seed = training_seed;
    options.num_threads = num_threads;
    options.on_warning = warnings.handler();
    options.on_progress = progress.handler();
    ranks.set(options);
  }
  Call(const Call&) = delete;  // its options point into it

  Array array;
  TensorView input;
  OptionalView encoder, time, labels;
  Warnings warnings;
  CallProgress progress;
  CallRanks ranks;
  ForwardOptions options;
};

nb::object forward(const TransformerTemporalModel& model, nb::handle hidden_states, std::int64_t num_frames,
                   nb::handle encoder_hidden_states, nb::handle timestep, nb::handle class_labels,
                   const Kwargs& cross_attention_kwargs, nb::handle out,
                   const std::shared_ptr<AttentionRecorder>& recorder, std::optional<std::uint64_t> training_seed,
                   int num_threads, nb::handle on_progress, const Context& context, const RanksArgument& ranks) {
  Call call(hidden_states, num_frames, encoder_hidden_states, timestep, class_labels, training_seed, num_threads,
            on_progress, ranks);
  if (context)
    call.options.context = {std::get<0>(*context), std::get<1>(*context), context_weighting(std::get<2>(*context))};
  CrossAttentionKwargs kwargs;
  for (const auto& [key, value] : cross_attention_kwargs)
    std::visit([&kwargs, &key = key](const auto& given) { kwargs[key] = given; }, value);
  AttentionProcessors processors;
  if (recorder)
    for (const std::string& name : model.attention_names()) processors[name] = recorder;
  call.options.cross_attention_kwargs = &kwargs;
  call.options.attention_processors = recorder ? &processors : nullptr;

  const auto run = [&](const MutableTensorView& sample) {
    {
      const nb::gil_scoped_release free;
      model.forward(call.input, sample, call.options);
    }
    call.warnings.issue();
  };
  if (!out.is_none()) {
    const MutableArray output = as_mutable_array("out", out);
    run(view_of("out", output));
    return nb::borrow(out);
  }
  const auto& config = model.config();
  const TensorView& input = call.input;
  const bool discrete = config.is_discrete() && input.rank() == 2;
  MutableTensorView sample;
  nb::object result =
      make_array(discrete ? DType::f32 : input.dtype(),
                 discrete ? Shape{input.size(0), *config.num_vector_embeds - 1, input.size(1)} : input.shape(),
                 framework_of(hidden_states), sample);
  run(sample);
  return result;
}

/// Where the gradients that `wanted` names are to be written: arrays given with the names, or new ones where those are
/// None, of hidden_states' library. Holds them until they are returned.
class GradientArrays {
 public:
  GradientArrays(const TransformerTemporalModel& model, const Call& call, const NamedArrays& wanted,
                 Framework framework) {
    for (const auto& [name, given] : wanted) {
      const TensorView like = described(model, call, name);
      MutableTensorView view;
      if (given.is_none()) {
        arrays.emplace_back(name, make_array(like.dtype(), like.shape(), framework, view));
      } else {
        held_.push_back(as_mutable_array(name.c_str(), given));
        view = view_of(name.c_str(), held_.back());
        arrays.emplace_back(name, given);
      }
      if (name == "hidden_states")
        views.hidden_states = view;
      else if (name == "encoder_hidden_states")
        views.encoder_hidden_states = view;
      else
        views.parameters.push_back({name, view});
    }
  }

  NamedArrays arrays;
  Gradients views;

 private:
  /// The shape and dtype of a gradient: an input's own, f32 for parameters.
  static TensorView described(const TransformerTemporalModel& model, const Call& call, const std::string& name) {
    if (name == "hidden_states" && !model.config().is_discrete()) return call.input;
    if (name == "encoder_hidden_states" && call.encoder.view && model.config().has_attn2()) return call.encoder.view;
    for (const Parameter& parameter : model.parameters())
      if (parameter.name == name) return {nullptr, DType::f32, parameter.value.shape()};
    throw ArgumentError("wanted",
                        "names of the model's parameters, hidden_states unless it is discrete, encoder_hidden_states "
                        "where it is given and attended to",
                        name);
  }

  std::vector<MutableArray> held_;
};

NamedArrays backward(const TransformerTemporalModel& model, nb::handle hidden_states, nb::handle sample_gradient,
                     const NamedArrays& wanted, std::int64_t num_frames, nb::handle encoder_hidden_states,
                     nb::handle timestep, nb::handle class_labels, std::optional<std::uint64_t> training_seed,
                     int num_threads, nb::handle on_progress, const RanksArgument& ranks) {
  Call call(hidden_states, num_frames, encoder_hidden_states, timestep, class_labels, training_seed, num_threads,
            on_progress, ranks);
  const OptionalView by_sample("sample_gradient", sample_gradient);
  GradientArrays gradients(model, call, wanted, framework_of(hidden_states));
  {
    const nb::gil_scoped_release free;
    model.backward(call.input, by_sample.view, gradients.views, call.options);
  }
  call.warnings.issue();
  return std::move(gradients.arrays);
}

nb::object recorded(const AttentionRecorder& recorder, const std::string& name) {
  auto* tensor = new Tensor(recorder.probabilities(name));
  const nb::capsule owner(tensor, [](void* held) noexcept { delete static_cast<Tensor*>(held); });
  return array_over(*tensor, owner, Framework::numpy);
}

}  // namespace
}  // namespace kineograph::python

NB_MODULE(_native, m) {
  using namespace kineograph;
  using namespace kineograph::python;
  nb::register_exception_translator(translate);

  nb::class_<AttentionRecorder>(m, "AttentionRecorder")
      .def(nb::init<>())
      .def("names", &AttentionRecorder::names)
      .def("probabilities", recorded, "name"_a)
      .def("clear", &AttentionRecorder::clear);

  bind_spatial(m);
  auto model = nb::class_<TransformerTemporalModel>(m, "Model", nb::is_weak_referenceable());
  bind_common<TransformerTemporalModel, TransformerTemporalConfig>(model);
  model
      .def_static("from_pretrained", from_pretrained, "directory"_a, "module"_a, "engine"_a, "compute_dtype"_a, "isa"_a,
                  "variant"_a, "select"_a, "group_norm_scope"_a, "loras"_a, "strict"_a, "copy_weights"_a,
                  "num_positional_embeddings"_a.none(), "position_extension"_a)
      .def("forward", forward, "hidden_states"_a.none(), "num_frames"_a, "encoder_hidden_states"_a.none(),
           "timestep"_a.none(), "class_labels"_a.none(), "cross_attention_kwargs"_a, "out"_a.none(),
           "recorder"_a.none(), "training_seed"_a.none(), "num_threads"_a, "on_progress"_a.none() = nb::none(),
           "context"_a.none() = nb::none(), "ranks"_a.none() = nb::none())
      .def("backward", backward, "hidden_states"_a.none(), "sample_gradient"_a.none(), "wanted"_a, "num_frames"_a,
           "encoder_hidden_states"_a.none(), "timestep"_a.none(), "class_labels"_a.none(), "training_seed"_a.none(),
           "num_threads"_a, "on_progress"_a.none() = nb::none(), "ranks"_a.none() = nb::none())
      .def_prop_ro("attention_names", &TransformerTemporalModel::attention_names);
  bind_restoration(m);

  m.def("engines", engines);
  m.def(
      "instruction_sets", [](const std::string& engine) { return instruction_sets(engine); }, "engine"_a);
  m.def("version", [] { return std::string(version()); });
  m.def("fingerprint", fingerprint, "addresses"_a, "sizes"_a, "num_threads"_a,
        nb::call_guard<nb::gil_scoped_release>());
}

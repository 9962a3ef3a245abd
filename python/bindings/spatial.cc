// Transformer2DModel and TransformerSpatioTemporalModel, call for call. kineograph/spatial.py is what users see.
#include <filesystem>

#include "models.h"

namespace kineograph::python {
namespace {

using namespace nb::literals;

/// A folder of one model, or one module of a UNet's checkpoint.
template <class Model>
Model from_pretrained(const std::string& path, const std::string& module, const std::string& engine,
                      const std::string& compute_dtype, const std::string& isa, const std::string& variant,
                      const std::string& select, bool copy_weights) {
  Warnings warnings;
  ModelOptions options = model_options(engine, compute_dtype, isa, warnings);
  options.variant = variant;
  options.copy_weights = copy_weights;
  options.unknown_keys = UnknownKeys::warn;
  auto model = [&] {
    const nb::gil_scoped_release free;
    const bool folder = module.empty() && select.empty() && !std::filesystem::is_regular_file(path);
    if (folder) return Model::from_pretrained(path, options);
    const SpatialModel found = load_spatial(Checkpoint::open(path, {variant, select}), module, options);
    if (const auto* wanted = std::get_if<Model>(&found)) return *wanted;
    const bool spatial = std::holds_alternative<Transformer2DModel>(found);
    throw ArgumentError("module", spatial ? "a TransformerSpatioTemporalModel" : "a Transformer2DModel",
                        module + ", a " + (spatial ? "Transformer2DModel" : "TransformerSpatioTemporalModel"));
  }();
  warnings.issue();
  return model;
}

/// `forward` into `out`, or into a new array of hidden_states' library, which is returned.
template <class Model, class Options>
nb::object run(const Model& model, nb::handle hidden_states, nb::handle out, nb::handle on_progress, Options& options) {
  const Array array = as_array("hidden_states", hidden_states);
  const TensorView input = view_of("hidden_states", array);
  Warnings warnings;
  CallProgress progress(on_progress);
  options.on_warning = warnings.handler();
  options.on_progress = progress.handler();
  nb::object result;
  MutableTensorView sample;
  MutableArray output;
  if (out.is_none()) {
    result = make_array(input.dtype(), input.shape(), framework_of(hidden_states), sample);
  } else {
    output = as_mutable_array("out", out);
    sample = view_of("out", output);
    result = nb::borrow(out);
  }
  {
    const nb::gil_scoped_release free;
    model.forward(input, sample, options);
  }
  warnings.issue();
  return result;
}

nb::object forward_2d(const Transformer2DModel& model, nb::handle hidden_states, nb::handle encoder_hidden_states,
                      nb::handle timestep, nb::handle class_labels, nb::handle attention_mask,
                      nb::handle encoder_attention_mask, const std::vector<nb::object>& image_prompts,
                      const std::vector<std::vector<double>>& scales, nb::handle out, int num_threads,
                      nb::handle on_progress) {
  const OptionalView encoder("encoder_hidden_states", encoder_hidden_states), time("timestep", timestep);
  const OptionalView labels("class_labels", class_labels), mask("attention_mask", attention_mask);
  const OptionalView encoder_mask("encoder_attention_mask", encoder_attention_mask);
  Transformer2DForwardOptions options;
  options.encoder_hidden_states = encoder.view;
  options.timestep = time.view;
  options.class_labels = labels.view;
  options.attention_mask = mask.view;
  options.encoder_attention_mask = encoder_mask.view;
  std::vector<Array> images;
  for (std::size_t i = 0; i < image_prompts.size(); ++i) {
    images.push_back(as_array("image_prompts", image_prompts[i]));
    options.image_prompts.push_back({view_of("image_prompts", images.back()), scales.at(i)});
  }
  options.num_threads = num_threads;
  return run(model, hidden_states, out, on_progress, options);
}

nb::object forward_spatio_temporal(const TransformerSpatioTemporalModel& model, nb::handle hidden_states,
                                   std::int64_t num_frames, nb::handle encoder_hidden_states,
                                   nb::handle image_only_indicator, nb::handle out, int num_threads,
                                   nb::handle on_progress) {
  const OptionalView encoder("encoder_hidden_states", encoder_hidden_states);
  const OptionalView images("image_only_indicator", image_only_indicator);
  TransformerSpatioTemporalForwardOptions options;
  options.num_frames = num_frames;
  options.encoder_hidden_states = encoder.view;
  options.image_only_indicator = images.view;
  options.num_threads = num_threads;
  return run(model, hidden_states, out, on_progress, options);
}

template <class Model, class Config>
nb::class_<Model> bind(nb::module_& m, const char* name) {
  auto model = nb::class_<Model>(m, name, nb::is_weak_referenceable());
  bind_common<Model, Config>(model);
  model.def_static("from_pretrained", from_pretrained<Model>, "path"_a, "module"_a, "engine"_a, "compute_dtype"_a,
                   "isa"_a, "variant"_a, "select"_a, "copy_weights"_a);
  return model;
}

}  // namespace

void bind_spatial(nb::module_& m) {
  bind<Transformer2DModel, Transformer2DConfig>(m, "Model2D")
      .def("forward", forward_2d, "hidden_states"_a.none(), "encoder_hidden_states"_a.none(), "timestep"_a.none(),
           "class_labels"_a.none(), "attention_mask"_a.none(), "encoder_attention_mask"_a.none(), "image_prompts"_a,
           "scales"_a, "out"_a.none(), "num_threads"_a, "on_progress"_a.none() = nb::none());
  bind<TransformerSpatioTemporalModel, TransformerSpatioTemporalConfig>(m, "SpatioTemporalModel")
      .def("forward", forward_spatio_temporal, "hidden_states"_a.none(), "num_frames"_a,
           "encoder_hidden_states"_a.none(), "image_only_indicator"_a.none(), "out"_a.none(), "num_threads"_a,
           "on_progress"_a.none() = nb::none());
}

}  // namespace kineograph::python

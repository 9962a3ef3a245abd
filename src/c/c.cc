// kineograph/c.h over the C++ API: views are turned, exceptions become codes.
#include "kineograph/c.h"

#include <cstddef>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"

/// A model, and the strings that are given out of it.
struct kineograph_model {
  explicit kineograph_model(kineograph::TransformerTemporalModel the_model)
      : model(std::move(the_model)), config(model.config().to_json()), engine(model.engine()), isa(model.isa()) {}
  kineograph::TransformerTemporalModel model;
  std::string config, engine, isa;
};

namespace kineograph {
namespace {

/// The text of this thread's last failure.
std::string& last_error() {
  thread_local std::string text;
  return text;
}

kineograph_status fail(kineograph_status status, const char* text) noexcept {
  try {
    last_error() = text;
  } catch (...) {
    // Without memory for the text the code has to do.
  }
  return status;
}

/// Runs `body`; an exception becomes its code.
template <class Body>
kineograph_status guarded(Body&& body) noexcept {
  try {
    body();
    return KINEOGRAPH_OK;
  } catch (const ArgumentError& error) {
    return fail(KINEOGRAPH_ARGUMENT_ERROR, error.what());
  } catch (const ConfigError& error) {
    return fail(KINEOGRAPH_CONFIG_ERROR, error.what());
  } catch (const FormatError& error) {
    return fail(KINEOGRAPH_FORMAT_ERROR, error.what());
  } catch (const CheckpointError& error) {
    return fail(KINEOGRAPH_CHECKPOINT_ERROR, error.what());
  } catch (const CommunicationError& error) {
    return fail(KINEOGRAPH_IO_ERROR, error.what());
  } catch (const IoError& error) {
    return fail(KINEOGRAPH_IO_ERROR, error.what());
  } catch (const Cancelled& error) {
    return fail(KINEOGRAPH_CANCELLED, error.what());
  } catch (const std::bad_alloc&) {
    return fail(KINEOGRAPH_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(KINEOGRAPH_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(KINEOGRAPH_INTERNAL_ERROR, "an exception of an unknown type");
  }
}

template <class T>
const T& require(const T* pointer, const char* where) {
  if (pointer == nullptr) throw ArgumentError(where, "a pointer", "null");
  return *pointer;
}

/// The struct `given`, whose caller may know fewer members than this library, over the defaults.
template <class Struct>
Struct with_defaults(const Struct* given, Struct defaults, const char* where) {
  if (given == nullptr) return defaults;
  if (given->size < sizeof(std::size_t) || given->size > sizeof(Struct))
    throw ArgumentError(std::string(where) + ".size",
                        "at most " + std::to_string(sizeof(Struct)) + ", as its INIT sets", std::to_string(given->size),
                        "The program was compiled against a newer kineograph, or did not set the struct up.");
  std::memcpy(&defaults, given, given->size);
  return defaults;
}

DType dtype_from(kineograph_dtype dtype, const char* where) {
  switch (dtype) {
    case KINEOGRAPH_F32:
      return DType::f32;
    case KINEOGRAPH_F16:
      return DType::f16;
    case KINEOGRAPH_BF16:
      return DType::bf16;
    case KINEOGRAPH_F64:
      return DType::f64;
    case KINEOGRAPH_I64:
      return DType::i64;
    case KINEOGRAPH_I32:
      return DType::i32;
    case KINEOGRAPH_DTYPE_AUTO:
      break;
  }
  throw ArgumentError(std::string(where) + ".dtype", "one of kineograph_dtype's element types", std::to_string(dtype));
}

/// Absent for null data.
MutableTensorView view_of(const kineograph_tensor& tensor, const char* where) {
  if (tensor.data == nullptr) return {};
  if (tensor.rank < 0 || tensor.rank > KINEOGRAPH_MAX_RANK)
    throw ArgumentError(std::string(where) + ".rank", "0 to " + std::to_string(KINEOGRAPH_MAX_RANK),
                        std::to_string(tensor.rank));
  const auto rank = static_cast<std::size_t>(tensor.rank);
  const DType dtype = dtype_from(tensor.dtype, where);
  const Dims shape(std::span(tensor.shape, rank)), strides(std::span(tensor.strides, rank));
  bool plain = true;
  for (const std::int64_t stride : strides) plain = plain && stride == 0;
  return plain ? MutableTensorView(tensor.data, dtype, shape) : MutableTensorView(tensor.data, dtype, shape, strides);
}

/// The same, for a tensor that has to be there.
MutableTensorView required_view(const kineograph_tensor* tensor, const char* where) {
  const MutableTensorView view = view_of(require(tensor, where), where);
  if (!view) throw ArgumentError(where, "a tensor", "null data");
  return view;
}

kineograph_dtype dtype_to(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return KINEOGRAPH_F16;
    case DType::bf16:
      return KINEOGRAPH_BF16;
    default:
      return KINEOGRAPH_F32;  // parameters have no other
  }
}

ModelOptions model_options(const kineograph_model_options* given) {
  const auto options = with_defaults(given, kineograph_model_options KINEOGRAPH_MODEL_OPTIONS_INIT, "options");
  ModelOptions result;
  if (options.engine != nullptr) result.engine = options.engine;
  if (options.isa != nullptr) result.isa = options.isa;
  if (options.compute_dtype != KINEOGRAPH_DTYPE_AUTO)
    result.compute_dtype = dtype_from(options.compute_dtype, "options.compute_dtype");
  return result;
}

ForwardOptions forward_options(const kineograph_forward_options* given) {
  const auto options = with_defaults(given, kineograph_forward_options KINEOGRAPH_FORWARD_OPTIONS_INIT, "options");
  ForwardOptions result;
  result.num_frames = options.num_frames;
  result.num_threads = options.num_threads;
  result.encoder_hidden_states = view_of(options.encoder_hidden_states, "encoder_hidden_states");
  result.timestep = view_of(options.timestep, "timestep");
  result.class_labels = view_of(options.class_labels, "class_labels");
  if (options.training != 0) result.training_seed = options.training_seed;
  if (options.on_progress != nullptr)
    result.on_progress = [tell = options.on_progress, data = options.progress_data](double done) {
      return tell(done, data) == 0;
    };
  return result;
}

/// Takes the result only when all of it is there.
template <class Make>
kineograph_status make_model(kineograph_model** model, Make&& make) noexcept {
  return guarded([&] {
    require(model, "model");
    *model = new kineograph_model(make());  // NOLINT(bugprone-unhandled-exception-at-new): guarded catches
  });
}

}  // namespace
}  // namespace kineograph

using namespace kineograph;

extern "C" {

const char* kineograph_version(void) { return version().data(); }

const char* kineograph_last_error(void) { return last_error().c_str(); }

kineograph_status kineograph_model_open(const char* path, const char* module, const kineograph_model_options* options,
                                        kineograph_model** model) {
  return make_model(model, [&] {
    require(path, "path");
    return load(Checkpoint::open(path), module == nullptr ? "" : module, model_options(options));
  });
}

kineograph_status kineograph_model_from_config(const char* config_json, uint64_t seed, kineograph_dtype dtype,
                                               const kineograph_model_options* options, kineograph_model** model) {
  return make_model(model, [&] {
    return TransformerTemporalModel::from_config(
        TransformerTemporalConfig::from_json(&require(config_json, "config_json"), "config_json"), seed,
        model_options(options), dtype_from(dtype, "dtype"));
  });
}

kineograph_status kineograph_model_from_state_dict(const char* config_json, const kineograph_parameter* parameters,
                                                   size_t num_parameters, const kineograph_model_options* options,
                                                   kineograph_model** model) {
  return make_model(model, [&] {
    std::vector<Parameter> state_dict;
    for (std::size_t i = 0; i < num_parameters; ++i) {
      const kineograph_parameter& parameter = (&require(parameters, "parameters"))[i];
      const char* name = &require(parameter.name, "parameters[].name");
      state_dict.push_back({name, required_view(&parameter.value, name)});
    }
    return TransformerTemporalModel::from_state_dict(
        TransformerTemporalConfig::from_json(&require(config_json, "config_json"), "config_json"), state_dict, nullptr,
        model_options(options));
  });
}

void kineograph_model_free(kineograph_model* model) { delete model; }

kineograph_status kineograph_model_save(const kineograph_model* model, const char* path) {
  return guarded([&] { require(model, "model").model.save_pretrained(&require(path, "path")); });
}

const char* kineograph_model_config(const kineograph_model* model) {
  return model == nullptr ? "" : model->config.c_str();
}
const char* kineograph_model_engine(const kineograph_model* model) {
  return model == nullptr ? "" : model->engine.c_str();
}
const char* kineograph_model_isa(const kineograph_model* model) { return model == nullptr ? "" : model->isa.c_str(); }

size_t kineograph_model_num_parameters(const kineograph_model* model) {
  return model == nullptr ? 0 : model->model.parameters().size();
}

kineograph_status kineograph_model_parameter(const kineograph_model* model, size_t index,
                                             kineograph_parameter* parameter) {
  return guarded([&] {
    const std::vector<Parameter>& parameters = require(model, "model").model.parameters();
    require(parameter, "parameter");
    if (index >= parameters.size())
      throw ArgumentError("index", "below " + std::to_string(parameters.size()), std::to_string(index));
    const Parameter& from = parameters[index];
    kineograph_parameter result = {};
    result.name = from.name.c_str();
    // The caller is asked not to write; C has one tensor type for both.
    result.value.data = const_cast<void*>(from.value.data());
    result.value.dtype = dtype_to(from.value.dtype());
    result.value.rank = static_cast<int32_t>(from.value.rank());
    for (std::size_t axis = 0; axis < from.value.rank(); ++axis) {
      result.value.shape[axis] = from.value.size(axis);
      result.value.strides[axis] = from.value.strides()[axis];
    }
    *parameter = result;
  });
}

kineograph_status kineograph_model_workspace_bytes(const kineograph_model* model,
                                                   const kineograph_tensor* hidden_states,
                                                   const kineograph_forward_options* options, size_t* bytes) {
  return guarded([&] {
    require(bytes, "bytes");
    *bytes = require(model, "model")
                 .model.workspace_bytes(required_view(hidden_states, "hidden_states"), forward_options(options));
  });
}

kineograph_status kineograph_model_forward(const kineograph_model* model, const kineograph_tensor* hidden_states,
                                           const kineograph_tensor* sample, const kineograph_forward_options* options) {
  return guarded([&] {
    require(model, "model")
        .model.forward(required_view(hidden_states, "hidden_states"), required_view(sample, "sample"),
                       forward_options(options));
  });
}

kineograph_status kineograph_model_backward(const kineograph_model* model, const kineograph_tensor* hidden_states,
                                            const kineograph_tensor* sample_gradient,
                                            const kineograph_gradients* gradients,
                                            const kineograph_forward_options* options) {
  return guarded([&] {
    require(gradients, "gradients");
    const auto given = with_defaults(gradients, kineograph_gradients KINEOGRAPH_GRADIENTS_INIT, "gradients");
    Gradients to;
    to.hidden_states = view_of(given.hidden_states, "gradients.hidden_states");
    to.encoder_hidden_states = view_of(given.encoder_hidden_states, "gradients.encoder_hidden_states");
    for (std::size_t i = 0; i < given.num_parameters; ++i) {
      const kineograph_parameter& parameter = (&require(given.parameters, "gradients.parameters"))[i];
      const char* name = &require(parameter.name, "gradients.parameters[].name");
      to.parameters.push_back({name, required_view(&parameter.value, name)});
    }
    require(model, "model")
        .model.backward(required_view(hidden_states, "hidden_states"),
                        required_view(sample_gradient, "sample_gradient"), to, forward_options(options));
  });
}

}  // extern "C"

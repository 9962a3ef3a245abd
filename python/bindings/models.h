// The parts of a binding that the models share.
#pragma once

#include <nanobind/stl/pair.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arrays.h"

namespace kineograph::python {

namespace nb = nanobind;

using NamedArrays = std::vector<std::pair<std::string, nb::object>>;

/// Sentences that the library had to say during a call; issued as Python warnings once the call is over.
class Warnings {
 public:
  WarningHandler handler() {
    return [this](std::string_view text) { texts_.emplace_back(text); };
  }
  void issue() const {
    for (const std::string& text : texts_)
      if (PyErr_WarnEx(PyExc_UserWarning, text.c_str(), 3) < 0) throw nb::python_error();
  }

 private:
  std::vector<std::string> texts_;
};

inline DType parse_dtype(const char* where, const std::string& name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    if (name_of(dtype) == name) return dtype;
  throw ArgumentError(where, "f32, f16 or bf16", name);
}

inline ModelOptions model_options(const std::string& engine, const std::string& compute_dtype, const std::string& isa,
                                  Warnings& warnings) {
  ModelOptions options;
  options.engine = engine;
  if (compute_dtype != "auto") options.compute_dtype = parse_dtype("compute_dtype", compute_dtype);
  options.isa = isa;
  options.on_warning = warnings.handler();
  return options;
}

/// A call that notices Python's signals and tells `on_progress`, a callable or None, how far it is. The calling thread
/// alone looks for signals: in the main thread their handlers run there, and what they raise, such as
/// KeyboardInterrupt, ends the call.
class CallProgress {
 public:
  explicit CallProgress(nb::handle on_progress) : on_progress_(on_progress) {}
  CallProgress(const CallProgress&) = delete;  // handlers point to it

  ProgressHandler handler() {
    return [this](double done) {
      const bool signals = std::this_thread::get_id() == caller_ && time_for_signals();
      if (on_progress_.is_none() && !signals) return true;
      const nb::gil_scoped_acquire gil;
      if (signals && PyErr_CheckSignals() != 0) throw nb::python_error();
      if (on_progress_.is_none()) return true;
      const nb::object go_on = nb::borrow<nb::object>(on_progress_)(done);
      const int truth = go_on.is_none() ? 1 : PyObject_IsTrue(go_on.ptr());
      if (truth < 0) throw nb::python_error();
      return truth != 0;
    };
  }

 private:
  using Clock = std::chrono::steady_clock;
  /// A thread of Python's at work keeps the GIL for 5 ms whoever waits for it: not at every tile.
  bool time_for_signals() {
    const Clock::time_point now = Clock::now();
    if (now - looked_ < std::chrono::milliseconds(200)) return false;
    looked_ = now;
    return true;
  }

  nb::handle on_progress_;  ///< an argument of the call, which keeps it
  std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point looked_ = Clock::now();
};

/// Keeps Python objects alive; may be dropped by any thread.
inline std::shared_ptr<const void> keep_alive(std::vector<Array> arrays) {
  return {new std::vector<Array>(std::move(arrays)), [](const void* held) {
            if (!nb::is_alive()) return;
            const nb::gil_scoped_acquire gil;
            delete static_cast<const std::vector<Array>*>(held);
          }};
}

/// An argument that may be missing, with the array that keeps its memory.
struct OptionalView {
  OptionalView(const char* where, nb::handle object) {
    if (object.is_none()) return;
    array = as_array(where, object);
    view = view_of(where, array);
  }
  Array array;
  TensorView view;
};

/// A `Model` with weights from a seed.
template <class Model, class Config>
Model from_config(const std::string& config, std::uint64_t seed, const std::string& dtype, const std::string& engine,
                  const std::string& compute_dtype, const std::string& isa) {
  Warnings warnings;
  const ModelOptions options = model_options(engine, compute_dtype, isa, warnings);
  const auto parsed = Config::from_json(config, "config");
  const nb::gil_scoped_release free;
  return Model::from_config(parsed, seed, options, parse_dtype("dtype", dtype));
}

/// A `Model` over arrays, which it keeps alive.
template <class Model, class Config>
Model from_state_dict(const std::string& config, const NamedArrays& state_dict, const std::string& engine,
                      const std::string& compute_dtype, const std::string& isa) {
  Warnings warnings;
  const ModelOptions options = model_options(engine, compute_dtype, isa, warnings);
  const auto parsed = Config::from_json(config, "config");
  std::vector<Array> arrays;
  std::vector<Parameter> parameters;
  for (const auto& [name, object] : state_dict) {
    arrays.push_back(as_array(name.c_str(), object));
    parameters.push_back({name, view_of(name.c_str(), arrays.back())});
  }
  const auto owner = keep_alive(std::move(arrays));
  const nb::gil_scoped_release free;
  return Model::from_state_dict(parsed, parameters, owner, options);
}

template <class Model>
NamedArrays parameters(nb::handle self) {
  NamedArrays named;
  for (const Parameter& parameter : nb::cast<const Model&>(self).parameters())
    named.emplace_back(parameter.name, array_over(parameter.value, self, Framework::numpy));
  return named;
}

/// What every model has.
template <class Model, class Config>
void bind_common(nb::class_<Model>& model) {
  using namespace nb::literals;
  model
      .def_static("from_config", from_config<Model, Config>, "config"_a, "seed"_a, "dtype"_a, "engine"_a,
                  "compute_dtype"_a, "isa"_a)
      .def_static("from_state_dict", from_state_dict<Model, Config>, "config"_a, "state_dict"_a, "engine"_a,
                  "compute_dtype"_a, "isa"_a)
      .def(
          "save_pretrained",
          [](const Model& self, const std::string& directory, const std::string& variant) {
            const nb::gil_scoped_release free;
            self.save_pretrained(directory, variant);
          },
          "directory"_a, "variant"_a)
      .def("parameters", [](nb::handle self) { return parameters<Model>(self); })
      .def_prop_ro("config", [](const Model& self) { return self.config().to_json(); })
      .def_prop_ro("num_parameters", [](const Model& self) { return self.num_parameters(); })
      .def_prop_ro("dtype", [](const Model& self) { return std::string(name_of(self.dtype())); })
      .def_prop_ro("compute_dtype", [](const Model& self) { return std::string(name_of(self.compute_dtype())); })
      .def_prop_ro("engine", [](const Model& self) { return std::string(self.engine()); })
      .def_prop_ro("isa", [](const Model& self) { return std::string(self.isa()); });
}

/// Transformer2DModel and TransformerSpatioTemporalModel.
void bind_spatial(nb::module_& m);

}  // namespace kineograph::python

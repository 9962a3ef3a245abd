// forward and backward of the models: arguments are checked, then the engine runs.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <vector>

#include "base/threads.h"
#include "engine/conditioning.h"
#include "engine/engine.h"
#include "engine/progress.h"
#include "model/arguments.h"
#include "model/impl.h"
#include "model/inputs.h"
#include "model/joint_call.h"
#include "model/parameters.h"
#include "model/views.h"

namespace kineograph {
namespace {

using model::check_view;
using model::dtype_and_shape;
using model::extent;
using model::is_image_dtype;
using model::overlap;

/// Whether every element has a place of its own, as far as the strides show: sorted by stride, each axis has to step
/// over all that the smaller ones reach.
bool has_places_of_its_own(const TensorView& view) {
  std::array<std::pair<std::int64_t, std::int64_t>, Dims::kMaxRank> axes;  // stride, extent; no call allocates
  axes.fill({std::numeric_limits<std::int64_t>::max(), 1});
  std::size_t count = 0;
  for (std::size_t axis = 0; axis < view.rank(); ++axis)
    if (view.size(axis) > 1) axes[count++] = {std::abs(view.strides()[axis]), view.size(axis)};
  std::sort(axes.begin(), axes.end());  // those of no axis last; of a part, GCC 12 warns that it might be more than all
  std::int64_t reach = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& [stride, size] = axes[i];
    if (stride <= reach) return false;
    reach += stride * (size - 1);
  }
  return true;
}

void check_places(const std::string& where, const MutableTensorView& written) {
  if (written.numel() != 0 && !has_places_of_its_own(written))
    throw ArgumentError(where, "memory in which every element has a place of its own",
                        "strides " + to_string(written.strides()) + " for shape " + to_string(written.shape()));
}

void check_output(const TransformerConfig& config, const TensorView& hidden_states, const Shape& shape,
                  const MutableTensorView& sample) {
  const bool dtype_fits = config.is_discrete() ? sample.dtype() == DType::f32 : is_image_dtype(sample.dtype());
  if (!sample || !dtype_fits || !(sample.shape() == shape))
    throw ArgumentError("sample", std::string(config.is_discrete() ? "f32 " : "f32, f16 or bf16 ") + to_string(shape),
                        sample ? dtype_and_shape(sample) : "none");
  check_view("sample", sample);
  check_places("sample", sample);
  const bool same = sample.data() == hidden_states.data() && sample.dtype() == hidden_states.dtype() &&
                    sample.strides() == hidden_states.strides();
  if (!same && overlap(hidden_states, sample))
    throw ArgumentError("sample", "memory apart from hidden_states', or the very same view of it",
                        "memory that overlaps it");
}

Shape output_shape(const TransformerConfig& config, const TensorView& hidden_states) {
  if (!config.is_discrete()) return hidden_states.shape();
  return {hidden_states.size(0), *config.num_vector_embeds - 1, hidden_states.size(1)};
}

/// Gives a call the model's own executor where it has none.
void fill_executor(const ModelMixin::Impl& impl, engine::Inputs& inputs) {
  if (inputs.executor == nullptr) inputs.executor = impl.prepared.executor;
}

std::size_t workspace_of(const ModelMixin::Impl& impl, engine::Inputs inputs) {
  fill_executor(impl, inputs);
  return impl.plan().workspace_bytes(inputs);
}

/// Runs a checked call, the engine's `body`, and tells `handler` of it, if there is one.
template <class Body>
void run_call(const ModelMixin::Impl& impl, engine::Inputs& inputs, const ProgressHandler& handler, const Body& body) {
  const RunningCall call;
  fill_executor(impl, inputs);
  if (!handler) return body();
  engine::Progress progress(handler);
  inputs.progress = &progress;
  progress.follow(body);
}

void forward_into(const ModelMixin::Impl& impl, engine::Inputs& inputs, const MutableTensorView& sample,
                  const ProgressHandler& handler) {
  run_call(impl, inputs, handler, [&] {
    if (sample.numel() != 0) impl.plan().forward(inputs, sample);
  });
}

/// A checked call into the caller's memory.
void run(const ModelMixin::Impl& impl, engine::Inputs inputs, const MutableTensorView& sample,
         const ProgressHandler& handler) {
  const TransformerConfig& config = common(impl.config);
  check_output(config, inputs.hidden_states, output_shape(config, inputs.hidden_states), sample);
  forward_into(impl, inputs, sample, handler);
}

/// A checked call into memory of its own.
Tensor run(const ModelMixin::Impl& impl, engine::Inputs inputs, const ProgressHandler& handler) {
  const TransformerConfig& config = common(impl.config);
  Tensor sample(config.is_discrete() ? DType::f32 : inputs.hidden_states.dtype(),
                output_shape(config, inputs.hidden_states));
  forward_into(impl, inputs, sample.mutable_view(), handler);
  return sample;
}

/// Gradients must not overlap the inputs of backward: a later pass reads those again.
void check_apart(const std::string& where, const MutableTensorView& written, std::initializer_list<TensorView> read) {
  for (const TensorView& other : read)
    if (other && overlap(written, other))
      throw ArgumentError(where, "memory apart from hidden_states, encoder_hidden_states and sample_gradient",
                          "memory that overlaps one of them");
}

/// Two gradients in one place would both be wrong.
void check_apart_from_each_other(std::vector<std::pair<std::string, MutableTensorView>> written) {
  std::erase_if(written, [](const auto& one) { return one.second.numel() == 0; });
  std::sort(written.begin(), written.end(),
            [](const auto& a, const auto& b) { return extent(a.second).first < extent(b.second).first; });
  for (std::size_t i = 1; i < written.size(); ++i)
    if (overlap(written[i - 1].second, written[i].second))
      throw ArgumentError(written[i].first, "memory apart from every other gradient's",
                          "memory of " + written[i - 1].first + " too");
}

/// Checks the gradient of an input: floating and of its shape.
void check_gradient(const std::string& where, const MutableTensorView& view, const Shape& shape) {
  if (view && (!is_image_dtype(view.dtype()) || !(view.shape() == shape)))
    throw ArgumentError(where, "f32, f16 or bf16 " + to_string(shape), dtype_and_shape(view));
  check_view(where, view);
}

/// The gradients of no pixels.
void clear(const engine::Gradients& gradients, const std::vector<model::SlotOf<MutableTensorView>>& slots) {
  const auto zero = [](const MutableTensorView& view) {
    if (view) engine::from_doubles(std::vector<double>(static_cast<std::size_t>(view.numel())), view);
  };
  zero(gradients.encoder_hidden_states);
  for (const auto& slot : slots) zero(*slot.view);
}

engine::Inputs read_call(const TransformerTemporalModel& model, const TensorView& hidden_states,
                         const ForwardOptions& options) {
  return model::read_inputs(model.config(), model.dtype(),
                            options.attention_processors ? model.attention_names() : std::vector<std::string>{},
                            hidden_states, options);
}

}  // namespace

void TransformerTemporalModel::forward(TensorView hidden_states, MutableTensorView sample,
                                       const ForwardOptions& options) const {
  model::JointCall call(options.communicator);
  engine::Inputs inputs = read_call(*this, hidden_states, options);
  check_output(config(), hidden_states, output_shape(config(), hidden_states), sample);
  call.begin(config(), inputs);
  call.run([&] { forward_into(*impl_, inputs, sample, options.on_progress); });
}
TransformerTemporalModelOutput TransformerTemporalModel::forward(TensorView hidden_states,
                                                                 const ForwardOptions& options) const {
  model::JointCall call(options.communicator);
  engine::Inputs inputs = read_call(*this, hidden_states, options);
  Tensor sample(config().is_discrete() ? DType::f32 : hidden_states.dtype(), output_shape(config(), hidden_states));
  call.begin(config(), inputs);
  call.run([&] { forward_into(*impl_, inputs, sample.mutable_view(), options.on_progress); });
  return {std::move(sample)};
}
std::size_t TransformerTemporalModel::workspace_bytes(TensorView hidden_states, const ForwardOptions& options) const {
  return workspace_of(*impl_, read_call(*this, hidden_states, options));
}

void Transformer2DModel::forward(TensorView hidden_states, MutableTensorView sample,
                                 const Transformer2DForwardOptions& options) const {
  run(*impl_, model::read_inputs(config(), hidden_states, options), sample, options.on_progress);
}
Transformer2DModelOutput Transformer2DModel::forward(TensorView hidden_states,
                                                     const Transformer2DForwardOptions& options) const {
  return {run(*impl_, model::read_inputs(config(), hidden_states, options), options.on_progress)};
}
std::size_t Transformer2DModel::workspace_bytes(TensorView hidden_states,
                                                const Transformer2DForwardOptions& options) const {
  return workspace_of(*impl_, model::read_inputs(config(), hidden_states, options));
}

void TransformerSpatioTemporalModel::forward(TensorView hidden_states, MutableTensorView sample,
                                             const TransformerSpatioTemporalForwardOptions& options) const {
  run(*impl_, model::read_inputs(config(), hidden_states, options), sample, options.on_progress);
}
TransformerTemporalModelOutput TransformerSpatioTemporalModel::forward(
    TensorView hidden_states, const TransformerSpatioTemporalForwardOptions& options) const {
  return {run(*impl_, model::read_inputs(config(), hidden_states, options), options.on_progress)};
}
std::size_t TransformerSpatioTemporalModel::workspace_bytes(
    TensorView hidden_states, const TransformerSpatioTemporalForwardOptions& options) const {
  return workspace_of(*impl_, model::read_inputs(config(), hidden_states, options));
}

void TransformerTemporalModel::backward(TensorView hidden_states, TensorView sample_gradient,
                                        const Gradients& gradients, const ForwardOptions& options) const {
  model::JointCall call(options.communicator);
  if (options.attention_processors != nullptr && !options.attention_processors->empty())
    throw ArgumentError("attention_processors", "none in backward", "some", "A processor has no gradient.");
  if (options.context)
    throw ArgumentError("context", "none in backward",
                        "windows of " + std::to_string(options.context->length) + " frames");
  engine::Inputs inputs = model::read_inputs(config(), dtype(), {}, hidden_states, options);
  const Shape shape = output_shape(config(), hidden_states);
  if (!sample_gradient || !is_image_dtype(sample_gradient.dtype()) || !(sample_gradient.shape() == shape))
    throw ArgumentError("sample_gradient", "f32, f16 or bf16 " + to_string(shape),
                        sample_gradient ? dtype_and_shape(sample_gradient) : "none");
  check_view("sample_gradient", sample_gradient);
  if (gradients.hidden_states && config().is_discrete())
    throw ArgumentError("gradients.hidden_states", "none: classes have no gradient", "one");
  check_gradient("gradients.hidden_states", gradients.hidden_states, hidden_states.shape());
  if (gradients.encoder_hidden_states && !inputs.encoder_hidden_states)
    throw ArgumentError("gradients.encoder_hidden_states", "none, as the call has no encoder_hidden_states", "one");
  check_gradient("gradients.encoder_hidden_states", gradients.encoder_hidden_states,
                 options.encoder_hidden_states.shape());
  std::vector<std::pair<std::string, MutableTensorView>> all_written;
  const auto apart = [&](const std::string& where, const MutableTensorView& written) {
    if (!written) return;
    check_places(where, written);
    check_apart(where, written, {hidden_states, options.encoder_hidden_states, sample_gradient});
    all_written.emplace_back(where, written);
  };
  apart("gradients.hidden_states", gradients.hidden_states);
  apart("gradients.encoder_hidden_states", gradients.encoder_hidden_states);
  engine::Gradients wanted;
  wanted.hidden_states = gradients.hidden_states;
  wanted.encoder_hidden_states = gradients.encoder_hidden_states;
  const auto slots = model::parameter_slots(config(), wanted.weights);
  for (const Gradients::Parameter& parameter : gradients.parameters) {
    const auto& [name, view] = parameter;
    const auto slot = std::find_if(slots.begin(), slots.end(), [&](const auto& s) { return s.name == parameter.name; });
    if (slot == slots.end() || slot->role == model::Role::positions)
      throw ArgumentError("gradients.parameters", "names of this model's parameters (positions are no parameter)",
                          name);
    if (!view || view.dtype() != DType::f32 || !(view.shape() == slot->shape) || !view.is_contiguous())
      throw ArgumentError("gradients.parameters: " + name, "contiguous f32 " + to_string(slot->shape),
                          view ? dtype_and_shape(view) : "none");
    check_view("gradients.parameters: " + parameter.name, view);
    apart("gradients.parameters: " + parameter.name, view);
    if (*slot->view) throw ArgumentError("gradients.parameters", "every parameter once", parameter.name + " twice");
    *slot->view = view;
  }
  check_apart_from_each_other(std::move(all_written));
  call.begin(config(), inputs, &wanted);
  if (options.communicator != nullptr && inputs.height == 0) clear(wanted, slots);
  call.run([&] {
    run_call(*impl_, inputs, options.on_progress, [&] { impl_->plan().backward(inputs, sample_gradient, wanted); });
  });
}

}  // namespace kineograph

#include "video/train/session.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <new>
#include <system_error>
#include <utility>

#include "kineograph/error.h"

namespace kineograph::video {
namespace {

std::size_t total_size(const TransformerTemporalModel& model) {
  return static_cast<std::size_t>(model.num_parameters());
}

}  // namespace

TrainingSession::TrainingSession(const TransformerTemporalModel& initial, TrainingOptions options,
                                 std::vector<std::shared_ptr<const WindowSource>> sources, ModelOptions engine,
                                 int threads)
    : config_(initial.config()),
      options_(options),
      sources_(std::move(sources)),
      engine_(std::move(engine)),
      threads_(threads),
      weights_(total_size(initial)),
      gradients_(total_size(initial)),
      optimizer_(total_size(initial), options.adamw) {
  std::size_t offset = 0;
  for (const Parameter& parameter : initial.parameters()) {
    const Tensor values = convert(parameter.value, DType::f32);
    const auto size = static_cast<std::size_t>(values.numel());
    std::copy_n(values.data_as<float>(), size, weights_.begin() + static_cast<std::ptrdiff_t>(offset));
    // The table of positions is a buffer, as in diffusers.
    const bool trained = !parameter.name.ends_with(".pos_embed.pe");
    slots_.push_back(
        {parameter.name, values.shape(), offset, size, trained, decays(parameter.name, values.shape().size())});
    offset += size;
  }
  average_ = weights_;
}

std::int64_t TrainingSession::tokens_per_step() const noexcept {
  const BatchOptions& batches = options_.batches;
  const std::int64_t side = batches.side();
  return batches.batch * batches.extents.frames * side * side;
}

std::vector<Parameter> TrainingSession::state_dict(const std::vector<float>& values) const {
  std::vector<Parameter> parameters;
  for (const Slot& slot : slots_)
    parameters.push_back({slot.name, TensorView(values.data() + slot.offset, slot.shape)});
  return parameters;
}

StepReport TrainingSession::step() {
  const std::int64_t number = steps_done();
  const auto make = [this](std::int64_t which) { return make_batch(sources_, options_.batches, which); };
  // After a step that failed, the batch that is waited for may be one of a later step.
  const auto take = [&] {
    if (next_.valid() && next_number_ == number) try {
        return next_.get();
      } catch (const std::bad_alloc&) {  // there may be enough memory now
      }
    return make(number);
  };
  const Batch batch = take();
  if (number + 1 < options_.steps && !next_.valid()) {
    next_number_ = number + 1;
    try {
      next_ = std::async(std::launch::async, make, next_number_);
    } catch (const std::system_error&) {  // no thread to be had: made when it is asked for
    }
  }

  const auto model = TransformerTemporalModel::from_state_dict(config_, state_dict(weights_), nullptr, engine_);
  ForwardOptions forward;
  forward.num_frames = options_.batches.extents.frames;
  forward.timestep = batch.timestep;
  forward.class_labels = batch.class_labels;
  forward.training_seed = Random(options_.batches.seed, {static_cast<std::uint64_t>(number)}).bits();
  forward.num_threads = threads_;
  const Tensor sample = model.forward(batch.hidden_states, forward).sample;
  Tensor sample_gradient(DType::f32, sample.shape());
  const double loss = squared_error(batch, sample, sample_gradient);

  Gradients gradients;
  for (const Slot& slot : slots_)
    if (slot.trained)
      gradients.parameters.push_back({slot.name, MutableTensorView(gradients_.data() + slot.offset, slot.shape)});
  model.backward(batch.hidden_states, sample_gradient, gradients, forward);
  const double norm = clip_norm(gradients_, options_.clip_norm);
  if (!std::isfinite(loss) || !std::isfinite(norm))
    throw Error("step " + std::to_string(number + 1), "a finite loss and gradient",
                "loss " + std::to_string(loss) + ", gradient norm " + std::to_string(norm),
                "The last checkpoint is whole; a smaller --learning-rate may help.");

  const double rate = learning_rate_at(number, options_.learning_rate, options_.warmup, options_.steps);
  optimizer_.begin();
  for (const Slot& slot : slots_)
    if (slot.trained)
      optimizer_.update(slot.offset, std::span(weights_).subspan(slot.offset, slot.size),
                        std::span<const float>(gradients_).subspan(slot.offset, slot.size), rate, slot.decayed);
  average_weights(average_, weights_, options_.ema, number);
  return {number + 1, loss, norm, rate};
}

void TrainingSession::save(const std::filesystem::path& file, const std::string& settings) const {
  std::vector<std::pair<std::string, TensorView>> tensors;
  for (const auto& [kind, values] : {std::pair{"weights", &weights_},
                                     {"average", &average_},
                                     {"exp_avg", &optimizer_.exp_avg},
                                     {"exp_avg_sq", &optimizer_.exp_avg_sq}})
    for (const Parameter& parameter : state_dict(*values))
      tensors.emplace_back(std::string(kind) + "." + parameter.name, parameter.value);
  save_safetensors(file, tensors,
                   {{"format", "kineograph training"}, {"step", std::to_string(steps_done())}, {"settings", settings}});
}

void TrainingSession::load(const Checkpoint& checkpoint) {
  next_ = {};  // a batch of the step that will not come now
  const std::string where = checkpoint.where();
  const auto step = checkpoint.metadata().find("step");
  std::int64_t done = -1;
  if (step != checkpoint.metadata().end()) {
    const char *begin = step->second.data(), *end = begin + step->second.size();
    if (const auto [rest, error] = std::from_chars(begin, end, done); error != std::errc() || rest != end) done = -1;
  }
  if (done < 0) throw CheckpointError(where, "a checkpoint of kineograph train", "no step count");
  if (done > options_.steps)
    throw CheckpointError(where + ": step", "at most the run's " + std::to_string(options_.steps),
                          std::to_string(done));
  for (const auto& [kind, values] : {std::pair{"weights", &weights_},
                                     {"average", &average_},
                                     {"exp_avg", &optimizer_.exp_avg},
                                     {"exp_avg_sq", &optimizer_.exp_avg_sq}})
    for (const Slot& slot : slots_) {
      const std::string name = std::string(kind) + "." + slot.name;
      const TensorView found = checkpoint.find(name);
      if (!found || found.dtype() != DType::f32 || found.shape() != slot.shape || !found.is_contiguous())
        throw CheckpointError(where + ": " + name, "f32 " + to_string(slot.shape),
                              found ? std::string(name_of(found.dtype())) + " " + to_string(found.shape()) : "nothing");
      std::copy_n(found.data_as<float>(), slot.size, values->begin() + static_cast<std::ptrdiff_t>(slot.offset));
    }
  optimizer_.steps = done;
}

void TrainingSession::save_model(const std::filesystem::path& folder, DType dtype) const {
  std::vector<Tensor> stored;
  std::vector<Parameter> parameters = state_dict(average_);
  for (Parameter& parameter : parameters) {
    stored.push_back(convert(parameter.value, dtype));
    parameter.value = stored.back();
  }
  // The weights only pass through; the reference engine copies none before a call.
  TransformerTemporalModel::from_state_dict(config_, parameters, nullptr, {.engine = "reference"})
      .save_pretrained(folder);
}

}  // namespace kineograph::video

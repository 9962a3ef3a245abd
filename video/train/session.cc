#include "video/train/session.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <new>
#include <system_error>
#include <utility>

#include "base/share.h"
#include "kineograph/error.h"
#include "video/train/step_parts.h"

namespace kineograph::video {
namespace {

std::size_t total_size(const TransformerTemporalModel& model) {
  return static_cast<std::size_t>(model.num_parameters());
}

}  // namespace

TrainingSession::TrainingSession(const TransformerTemporalModel& initial, TrainingOptions options,
                                 std::vector<std::shared_ptr<const WindowSource>> sources, ModelOptions engine,
                                 int threads, Communicator* ranks)
    : config_(initial.config()),
      options_(options),
      sources_(std::move(sources)),
      engine_(std::move(engine)),
      threads_(threads),
      weights_(total_size(initial)),
      gradients_(total_size(initial)),
      optimizer_(total_size(initial), options.adamw),
      ranks_(ranks),
      parts_(options_.parts()) {
  const Share own = ranks == nullptr ? Share{0, parts_} : share_of(parts_, ranks->rank(), ranks->size());
  first_part_ = own.first;
  own_parts_ = own.count;
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

std::vector<Batch> TrainingSession::make_batches(std::int64_t number) const {
  const std::int64_t windows = options_.batches.batch, each = options_.part_windows();
  std::vector<Batch> batches;
  for (std::int64_t part = first_part_; part < first_part_ + own_parts_; ++part)
    batches.push_back(
        make_part(sources_, options_.batches, number, part * each, std::min(each, windows - part * each)));
  return batches;
}

/// Those of the step to do now; another thread begins to make the next one's.
std::vector<Batch> TrainingSession::take_batches() {
  const std::int64_t number = steps_done();
  // After a step that failed, the batch that is waited for may be one of a later step.
  const auto take = [&] {
    if (next_.valid() && next_number_ == number) try {
        return next_.get();
      } catch (const std::bad_alloc&) {  // there may be enough memory now
      }
    return make_batches(number);
  };
  std::vector<Batch> batches = take();
  if (number + 1 < options_.steps && !next_.valid()) {
    next_number_ = number + 1;
    try {
      next_ = std::async(std::launch::async, [this, next = next_number_] { return make_batches(next); });
    } catch (const std::system_error&) {  // no thread to be had: made when it is asked for
    }
  }
  return batches;
}

/// The loss of a part, and its gradient.
double TrainingSession::compute(const TransformerTemporalModel& model, const Batch& batch, std::int64_t part,
                                std::vector<float>& gradient) const {
  const auto number = static_cast<std::uint64_t>(steps_done());
  ForwardOptions forward;
  forward.num_frames = options_.batches.extents.frames;
  forward.timestep = batch.timestep;
  forward.class_labels = batch.class_labels;
  // What is dropped is drawn by a video's number in its part.
  const std::uint64_t seed = options_.batches.seed;
  forward.training_seed =
      parts_ == 1 ? Random(seed, {number}).bits() : Random(seed, {number, static_cast<std::uint64_t>(part)}).bits();
  forward.num_threads = threads_;
  const Tensor sample = model.forward(batch.hidden_states, forward).sample;
  Tensor sample_gradient(DType::f32, sample.shape());
  const double loss = squared_error(batch, sample, sample_gradient);
  Gradients gradients;
  for (const Slot& slot : slots_)
    if (slot.trained)
      gradients.parameters.push_back({slot.name, MutableTensorView(gradient.data() + slot.offset, slot.shape)});
  model.backward(batch.hidden_states, sample_gradient, gradients, forward);
  return loss;
}

/// The loss of the step, and its gradient into gradients_.
double TrainingSession::compute_all() {
  const std::vector<Batch> batches = take_batches();
  const auto model = TransformerTemporalModel::from_state_dict(config_, state_dict(weights_), nullptr, engine_);
  if (parts_ == 1 && ranks_ == nullptr) return compute(model, batches.front(), 0, gradients_);
  part_gradients_.resize(batches.size(), std::vector<float>(gradients_.size()));
  std::vector<double> losses;
  for (std::size_t i = 0; i < batches.size(); ++i)
    losses.push_back(compute(model, batches[i], first_part_ + static_cast<std::int64_t>(i), part_gradients_[i]));
  losses = gather_parts(ranks_, parts_, std::move(losses), 1);
  add_parts(ranks_, parts_, part_gradients_, gradients_);
  double loss = losses.front();
  for (std::size_t part = 1; part < losses.size(); ++part) loss += losses[part];
  return loss;
}

std::uint64_t TrainingSession::fingerprint() const {
  std::vector<std::uint64_t> hashes{XXH3_64bits(weights_.data(), weights_.size() * sizeof(float))};
  if (!finished()) {
    const Batch batch = make_batch(sources_, options_.batches, steps_done());
    hashes.push_back(XXH3_64bits(batch.hidden_states.data(), batch.hidden_states.bytes()));
  }
  return XXH3_64bits(hashes.data(), hashes.size() * sizeof(std::uint64_t));
}

StepReport TrainingSession::step() {
  const std::int64_t number = steps_done();
  const double loss = compute_all();
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

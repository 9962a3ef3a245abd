// The built-in attention processors.
#include "kineograph/attention.h"

#include <algorithm>
#include <cmath>

#include "kineograph/error.h"

namespace kineograph {
namespace {

double read(const TensorView& view, std::int64_t offset) {
  return view.dtype() == DType::f64 ? static_cast<const double*>(view.data())[offset]
                                    : static_cast<double>(static_cast<const float*>(view.data())[offset]);
}

void write(const MutableTensorView& view, std::int64_t offset, double value) {
  if (view.dtype() == DType::f64)
    static_cast<double*>(view.data())[offset] = value;
  else
    static_cast<float*>(view.data())[offset] = static_cast<float>(value);
}

std::int64_t row(const TensorView& view, std::int64_t sequence, std::int64_t head, std::int64_t token) {
  return sequence * view.strides()[0] + head * view.strides()[1] + token * view.strides()[2];
}

/// Attention in double; keep(sequence, head, query, key, probability) sees every probability.
template <class Keep>
void attend(const AttentionCall& call, Keep&& keep) {
  const std::int64_t keys = call.key.size(2), head_dim = call.query.size(3);
  std::vector<double> weights(static_cast<std::size_t>(keys));
  for (std::int64_t n = 0; n < call.query.size(0); ++n)
    for (std::int64_t h = 0; h < call.query.size(1); ++h)
      for (std::int64_t f = 0; f < call.query.size(2); ++f) {
        for (std::int64_t s = 0; s < keys; ++s) {
          double sum = 0.0;
          for (std::int64_t e = 0; e < head_dim; ++e)
            sum += read(call.query, row(call.query, n, h, f) + e * call.query.strides()[3]) *
                   read(call.key, row(call.key, n, h, s) + e * call.key.strides()[3]);
          weights[static_cast<std::size_t>(s)] = sum * call.scale;
        }
        const double most = *std::max_element(weights.begin(), weights.end());
        double total = 0.0;
        for (double& weight : weights) total += weight = std::exp(weight - most);
        for (std::int64_t s = 0; s < keys; ++s) {
          weights[static_cast<std::size_t>(s)] /= total;
          keep(n, h, f, s, weights[static_cast<std::size_t>(s)]);
        }
        for (std::int64_t e = 0; e < head_dim; ++e) {
          double sum = 0.0;
          for (std::int64_t s = 0; s < keys; ++s)
            sum += weights[static_cast<std::size_t>(s)] *
                   read(call.value, row(call.value, n, h, s) + e * call.value.strides()[3]);
          write(call.output, row(call.output, n, h, f) + e * call.output.strides()[3], sum);
        }
      }
}

}  // namespace

void DefaultAttentionProcessor::operator()(const AttentionCall& call) {
  attend(call, [](auto...) {});
}

void AttentionRecorder::operator()(const AttentionCall& call) {
  const std::int64_t heads = call.query.size(1), frames = call.query.size(2), keys = call.key.size(2);
  const std::int64_t each = frames * keys;  // of a pixel, head and window
  std::vector<float> values;                // of the call's pixels and heads
  values.reserve(static_cast<std::size_t>(call.query.size(0) * heads * each));
  attend(call, [&](auto, auto, auto, auto, double probability) { values.push_back(static_cast<float>(probability)); });
  const Shape shape{call.num_videos, call.num_pixels, heads, call.num_windows * frames, keys};
  const std::lock_guard lock(mutex_);
  Map& map = maps_[std::string(call.name)];
  if (map.forward > call.forward) return;
  if (map.forward < call.forward || !map.probabilities || !(map.probabilities.shape() == shape))
    map = {call.forward, Tensor(DType::f32, shape)};
  const std::int64_t first = (call.video * call.num_pixels + call.first_pixel) * heads;
  for (std::int64_t i = 0; i < call.query.size(0) * heads; ++i)
    std::copy_n(values.begin() + i * each, each,
                map.probabilities.data_as<float>() + ((first + i) * call.num_windows + call.window) * each);
}

std::vector<std::string> AttentionRecorder::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, map] : maps_) names.push_back(name);
  return names;
}

Tensor AttentionRecorder::probabilities(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = maps_.find(name);
  return found == maps_.end() ? Tensor() : found->second.probabilities;
}

void AttentionRecorder::clear() {
  const std::lock_guard lock(mutex_);
  maps_.clear();
}

}  // namespace kineograph

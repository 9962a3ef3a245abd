// Calls of every kind, small, for tests of what goes on while one runs.
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"

namespace kineograph::testing {

/// Ends the process by SIGALRM if this lives longer: a test that hangs fails.
class Deadline {
 public:
  explicit Deadline(unsigned seconds) { alarm(seconds * kSlower); }
  ~Deadline() { alarm(0); }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  // How much longer a call takes under AddressSanitizer or ThreadSanitizer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr unsigned kSlower = 30;
#else
  static constexpr unsigned kSlower = 1;
#endif
};

inline Tensor waves(const Shape& shape) {
  Tensor tensor(DType::f32, shape);
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data_as<float>()[i] = std::sin(0.37f * static_cast<float>(i % 9973));
  return tensor;
}

inline bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

inline bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same(a[i], b[i])) return false;
  return true;
}

/// The members that the options of all calls share.
struct CommonOptions {
  int num_threads = 0;
  ProgressHandler on_progress = {};
  Executor* executor = nullptr;
};

/// One call of one model by one engine, and all that it writes.
struct CallKind {
  std::string name;
  std::function<std::vector<Tensor>(const CommonOptions&)> run;
};

inline TransformerTemporalConfig temporal_config(std::int64_t channels, std::int64_t heads, double dropout = 0.0) {
  TransformerTemporalConfig config;
  config.num_attention_heads = heads;
  config.attention_head_dim = channels / heads;
  config.in_channels = channels;
  config.norm_num_groups = 8;
  config.dropout = dropout;
  return config;
}

template <class Options>
Options with(const CommonOptions& common, Options options) {
  options.num_threads = common.num_threads;
  options.on_progress = common.on_progress;
  options.executor = common.executor;
  return options;
}

/// forward and backward of the temporal model, with dropout and without; forwards of the two others. Some tiles each.
inline std::vector<CallKind> calls_of(const std::string& engine, ModelOptions options = {}) {
  options.engine = engine;
  const std::int64_t side = engine == "reference" ? 7 : 20;
  const auto temporal = TransformerTemporalModel::from_config(temporal_config(32, 2, 0.1), 1, options);
  const Tensor x = waves({8, 32, side, side}), y = waves({4, 32, side / 2, side / 2});
  Transformer2DConfig image_config;
  image_config.num_attention_heads = 2;
  image_config.attention_head_dim = 16;
  image_config.in_channels = 32;
  image_config.norm_num_groups = 8;
  image_config.cross_attention_dim = 6;
  image_config.num_layers = 2;
  const auto image = Transformer2DModel::from_config(image_config, 2, options);
  const Tensor text = waves({1, 5, 6});
  TransformerSpatioTemporalConfig video_config;
  video_config.num_attention_heads = 2;
  video_config.attention_head_dim = 16;
  video_config.in_channels = 32;
  video_config.cross_attention_dim = 6;
  const auto video = TransformerSpatioTemporalModel::from_config(video_config, 3, options);
  return {{engine + " forward",
           [=](const CommonOptions& common) {
             return std::vector<Tensor>{temporal.forward(x, with(common, ForwardOptions{.num_frames = 4})).sample};
           }},
          {engine + " forward with dropout",
           [=](const CommonOptions& common) {
             const ForwardOptions options{.num_frames = 4, .training_seed = 7};
             return std::vector<Tensor>{temporal.forward(x, with(common, options)).sample};
           }},
          {engine + " backward",
           [=](const CommonOptions& common) {
             std::vector<Tensor> written;
             Gradients wanted;
             written.emplace_back(DType::f32, x.shape());
             wanted.hidden_states = written.back().mutable_view();
             for (const Parameter& parameter : temporal.parameters()) {
               written.emplace_back(DType::f32, parameter.value.shape());
               wanted.parameters.push_back({parameter.name, written.back().mutable_view()});
             }
             temporal.backward(x, x, wanted, with(common, ForwardOptions{.num_frames = 4}));
             return written;
           }},
          {engine + " Transformer2DModel",
           [=](const CommonOptions& common) {
             return std::vector<Tensor>{
                 image.forward(y, with(common, Transformer2DForwardOptions{.encoder_hidden_states = text})).sample};
           }},
          {engine + " TransformerSpatioTemporalModel", [=](const CommonOptions& common) {
             const TransformerSpatioTemporalForwardOptions options{.num_frames = 2, .encoder_hidden_states = text};
             return std::vector<Tensor>{video.forward(y, with(common, options)).sample};
           }}};
}

inline std::vector<CallKind> all_calls(const ModelOptions& options = {}) {
  std::vector<CallKind> all;
  for (const std::string& engine : engines())
    for (CallKind& call : calls_of(engine, options)) all.push_back(std::move(call));
  return all;
}

}  // namespace kineograph::testing

// The reference engine: every layer in turn over a run of pixels.
#include "base/late.h"
#include "base/threads.h"
#include "engine/conditioning.h"
#include "engine/engine.h"
#include "engine/progress.h"
#include "engine/reference/backward.h"
#include "engine/reference/passage.h"
#include "engine/reference/spatial.h"
#include "kineograph/error.h"

namespace kineograph::engine::reference {
namespace {

class ReferencePlan : public Plan {
 public:
  ReferencePlan(const TransformerTemporalConfig& config, const Weights& weights) : config_(config), weights_(weights) {}

  std::size_t workspace_bytes(const Inputs& inputs) const override {
    // The widest moment of a run: the feed-forward's projection beside its activation and the residual stream.
    const auto tokens = static_cast<std::size_t>(kRunPixels * inputs.num_frames);
    return tokens * static_cast<std::size_t>(config_.inner_dim()) * 16 * sizeof(double) *
           static_cast<std::size_t>(threads_of(inputs));
  }

  void forward(const Inputs& inputs, const MutableTensorView& output) const override {
    const Conditioning conditioning = compute_conditioning(config_, weights_, inputs);
    const int threads = threads_of(inputs);
    const Layers& layers = layers_.get([&] { return std::make_unique<Layers>(load(weights_)); });
    Passage passage(config_, config_.group_norm_scope, layers, inputs, conditioning);
    if (!config_.is_discrete()) passage.take_statistics(threads);
    const Runs runs(inputs);
    expect(inputs.progress, static_cast<std::size_t>(runs.size()));
    parallel_for(runs.size(), threads, inputs.executor, [&](std::int64_t i) {
      Array x = passage.enter(runs[i]);
      for (std::size_t layer = 0; layer < layers.blocks.size(); ++layer) passage.block(layer, runs[i], x);
      passage.leave(runs[i], x, output);
      advance(inputs.progress);
    });
  }

  void backward(const Inputs& inputs, const TensorView& d_output, const Gradients& gradients) const override {
    const Conditioning conditioning = compute_conditioning(config_, weights_, inputs);
    const int threads = threads_of(inputs);
    const Layers& layers = layers_.get([&] { return std::make_unique<Layers>(load(weights_)); });
    Passage passage(config_, config_.group_norm_scope, layers, inputs, conditioning);
    if (!config_.is_discrete()) passage.take_statistics(threads);
    run_backward(passage, weights_, d_output, gradients, threads);
  }

 private:
  TransformerTemporalConfig config_;
  Weights weights_;
  mutable Late<Layers> layers_;  ///< in double, from the first call on
};

class ReferenceEngine : public Engine {
 public:
  std::string_view name() const noexcept override { return "reference"; }
  std::vector<std::string> instruction_sets() const override { return {"portable"}; }
  std::optional<Choice> choose(const ModelConfig&, const Weights&, const PrepareOptions& options) const override {
    if (!options.isa.empty() && options.isa != "portable")
      throw ArgumentError("instruction set of engine reference", "portable", options.isa);
    return Choice{"portable", DType::f64};
  }
  std::unique_ptr<const Plan> prepare(const ModelConfig& config, const Weights& weights,
                                      const PrepareOptions&) const override {
    if (const auto* temporal = std::get_if<TransformerTemporalConfig>(&config))
      return std::make_unique<ReferencePlan>(*temporal, weights);
    return prepare_spatial(common(config), weights);
  }
};

}  // namespace
}  // namespace kineograph::engine::reference

namespace kineograph::engine {

const Engine& reference_engine() {
  static const reference::ReferenceEngine engine;
  return engine;
}

}  // namespace kineograph::engine

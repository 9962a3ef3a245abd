// The fused engine: GroupNorm statistics, then tiles that walk through all layers in cache.
#include "engine/cpu/spatial/plan.h"

#include <cstdio>
#include <functional>
#include <numeric>

#include "base/late.h"
#include "base/mapped_file.h"
#include "base/threads.h"
#include "engine/cpu/backward/backward.h"
#include "engine/cpu/call/make.h"
#include "engine/cpu/pack/pack.h"
#include "engine/cpu/schedule/schedule.h"
#include "engine/cpu/schedule/targets.h"
#include "engine/engine.h"
#include "engine/ranks.h"
#include "kineograph/error.h"

namespace kineograph::engine::cpu {
namespace {

class CpuPlan : public Plan {
 public:
  CpuPlan(const TransformerTemporalConfig& config, const Weights& weights, const Target& target, DType compute_dtype,
          const Lent& lent)
      : target_(target), weights_(weights), lent_(lent) {
    pack_on(lent_, [&] { model_ = pack_model(config, weights, target.arithmetic(compute_dtype), target.max_rows); });
  }

  std::size_t workspace_bytes(const Inputs& inputs) const override {
    Call call;
    describe(request(inputs, {}, Purpose::inference), call);
    return static_cast<std::size_t>(threads_of(inputs)) * sizes(call).bytes() +
           call.group_sets() * (model_.channels * 3 * sizeof(float) + group_rows(call) * sizeof(Moments));
  }

  void forward(const Inputs& inputs, const MutableTensorView& output) const override {
    const int threads = threads_of(inputs);
    const bool dropout = inputs.training_seed && model_.config.dropout > 0.0;
    if (dropout && any_processor(inputs))
      throw ArgumentError("attention_processors", "none in training with dropout", "some",
                          "The engine reference takes them.");
    BackwardPlan* const training = dropout ? &trained(inputs) : nullptr;
    const Pool<CallMemory>::Borrowed memory(calls_);
    const CallRequest asked = request(inputs, output, dropout ? Purpose::training : Purpose::inference);
    share_moments(asked, threads, *memory);
    const auto body = [&] {
      const Call& call = make_call(asked, threads, *memory);
      if (dropout) return training->run_forward(call, threads);
      walk_tiles(call, target_, tile_shape(call), threads, sizes(call), workspaces_);
    };
    run_on(lent_to(inputs), threads, std::cref(body));  // a reference: std::function allocates for a larger lambda
  }

  void backward(const Inputs& inputs, const TensorView& d_output, const Gradients& gradients) const override {
    const int threads = threads_of(inputs);
    BackwardPlan& training = trained(inputs);
    const Pool<CallMemory>::Borrowed memory(calls_);
    const CallRequest asked = request(inputs, {}, Purpose::training);
    share_moments(asked, threads, *memory);
    const auto make = [&] { make_call(asked, threads, *memory); };
    run_on(lent_to(inputs), threads, std::cref(make));
    training.run(memory->call, memory->modulations.conditioning, gradients, image_of(d_output, inputs.width),
                 lent_to(inputs), threads);
  }

 private:
  CallRequest request(const Inputs& inputs, const MutableTensorView& output, Purpose purpose) const {
    return {model_, weights_, target_, inputs, output, purpose};
  }
  /// Of a picture that several processes share: takes the moments of this one's rows, and fetches the others'. While it
  /// waits it keeps none of the arena's places.
  void share_moments(const CallRequest& asked, int threads, CallMemory& memory) const {
    Ranks* const ranks = asked.inputs.ranks;
    if (ranks == nullptr || model_.config.is_discrete()) return;
    describe(asked, memory.call);
    const auto body = [&] { take_moments(memory.call, target_, threads, memory.group_norm); };
    run_on(lent_to(asked.inputs), threads, std::cref(body));
    memory.group_norm.rows = ranks->gather_moments(memory.group_norm.rows);
  }
  TileShape tile_shape(const Call& call) const {
    // As many runs as fill a window: what weights are read for.
    TileShape shape = choose_tile(target_.lanes, call.attended_frames, call.segment_pixels());
    shape.frames = call.frames;
    return shape;
  }
  WorkspaceSizes sizes(const Call& call) const {
    return workspace_sizes(model_, tile_shape(call), call.attended_frames, call.context_tokens, call.context_dim);
  }

  /// Moments of a set of GroupNorm's statistics.
  std::size_t group_rows(const Call& call) const {
    return model_.config.is_discrete() ? 0
                                       : call.picture_rows() * static_cast<std::size_t>(model_.config.norm_num_groups);
  }

  Lent lent_to(const Inputs& inputs) const { return {inputs.executor, lent_.memory}; }

  /// Weights packed for training, when they are first asked for. Called outside run_on: a thread that waits for the
  /// lock keeps none of the arena's places, and the thread that holds it waits for its own pieces of work only.
  BackwardPlan& trained(const Inputs& inputs) const {
    return trained_.get([&] {
      check_unchanged();
      std::unique_ptr<BackwardPlan> packed;
      pack_on(lent_to(inputs), [&] { packed = std::make_unique<BackwardPlan>(weights_, model_, target_); });
      check_unchanged();
      return packed;
    });
  }

  /// Throws IoError if weights are of a file that is not what it was: reading it might end the process.
  void check_unchanged() const {
    each_linear(weights_, [](const Linear& linear) {
      for (const TensorView* view : {&linear.weight, &linear.bias})
        if (*view) checkpoint::check_unchanged(view->data());
    });
  }

  const Target& target_;
  Weights weights_;  // views; read again for conditioning and training
  Lent lent_;
  PackedModel model_;
  mutable WorkspacePool workspaces_;
  mutable Late<BackwardPlan> trained_;
  mutable Pool<CallMemory> calls_;
};

class CpuEngine : public Engine {
 public:
  std::string_view name() const noexcept override { return "cpu"; }

  std::vector<std::string> instruction_sets() const override {
    std::vector<std::string> names;
    for (const Target* target : targets()) names.emplace_back(target->name);
    return names;
  }

  double peak_gflops(const std::string& isa, DType compute_dtype, int threads) const override {
    const Target& target = find(isa);
    const Arithmetic arithmetic = target.arithmetic(compute_dtype);
    std::vector<double> rates(static_cast<std::size_t>(thread_count(threads)));
    run_at_once(static_cast<int>(rates.size()),
                [&](int i) { rates[static_cast<std::size_t>(i)] = target.peak_flops(arithmetic, 0.05); });
    return std::accumulate(rates.begin(), rates.end(), 0.0);
  }

  std::optional<Choice> choose(const ModelConfig& config, const Weights& weights,
                               const PrepareOptions& options) const override {
    if (!std::holds_alternative<TransformerTemporalConfig>(config) && !runs_rows(weights)) return {};
    return Choice{find(options.isa).name, options.compute_dtype};
  }

  std::unique_ptr<const Plan> prepare(const ModelConfig& config, const Weights& weights,
                                      const PrepareOptions& options) const override {
    const auto* temporal = std::get_if<TransformerTemporalConfig>(&config);
    const Lent lent{options.executor, options.memory};
    if (temporal == nullptr) return prepare_rows(config, weights, find(options.isa), options.compute_dtype, lent);
    return std::make_unique<CpuPlan>(*temporal, weights, find(options.isa), options.compute_dtype, lent);
  }

 private:
  /// The instruction set of a name; the best one for none.
  static const Target& find(const std::string& isa) {
    std::string known;
    for (const Target* target : targets()) {
      if (isa.empty() || target->name == isa) return *target;
      known += (known.empty() ? "" : ", ") + std::string(target->name);
    }
    throw ArgumentError("instruction set", "one of " + known, isa);
  }
};

}  // namespace
}  // namespace kineograph::engine::cpu

namespace kineograph::engine {

const Engine* cpu_engine() {
  static const cpu::CpuEngine engine;
  static const bool runs = [] {
    if (!cpu::targets().empty()) return true;
    // Once a process, and nowhere else: it is the machine's, and no call's, that the answer comes slowly.
    std::fputs(
        "kineograph: warning: this processor has none of the instruction sets that the fused engine is compiled "
        "for; the reference engine computes, many times slower\n",
        stderr);
    return false;
  }();
  return runs ? &engine : nullptr;
}

}  // namespace kineograph::engine

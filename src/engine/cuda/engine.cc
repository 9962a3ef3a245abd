// The CUDA engine, where a device is there.
#include "engine/engine.h"

#include "engine/cuda/plan.h"
#include "engine/cuda/runtime.h"
#include "kineograph/error.h"

namespace kineograph::engine::cuda {
namespace {

class CudaEngine : public Engine {
 public:
  std::string_view name() const noexcept override { return "cuda"; }
  std::vector<std::string> instruction_sets() const override { return {isa_}; }
  std::vector<DType> compute_dtypes() const override { return {DType::f16, DType::bf16}; }

  std::optional<Choice> choose(const ModelConfig& config, const Weights&,
                               const PrepareOptions& options) const override {
    if (!options.isa.empty() && options.isa != isa_)
      throw ArgumentError("instruction set of engine cuda", isa_, options.isa);
    const auto* temporal = std::get_if<TransformerTemporalConfig>(&config);
    if (temporal == nullptr) return std::nullopt;
    check_model(*temporal);
    return Choice{isa_, options.compute_dtype};
  }

  std::unique_ptr<const Plan> prepare(const ModelConfig& config, const Weights& weights,
                                      const PrepareOptions& options) const override {
    return prepare_plan(std::get<TransformerTemporalConfig>(config), weights, options.compute_dtype);
  }

 private:
  std::string isa_ = architecture();
};

}  // namespace
}  // namespace kineograph::engine::cuda

namespace kineograph::engine {

const Engine* cuda_engine() {
  static const cuda::CudaEngine engine;
  return cuda::architecture().empty() ? nullptr : &engine;
}

std::string why_no_cuda() { return cuda::why_no_device(); }

}  // namespace kineograph::engine

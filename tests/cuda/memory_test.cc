// What a call takes of the emulated device's memory.
#include <gtest/gtest.h>

#include <algorithm>

#include "emulated/device.h"
#include "engine/cuda/plan.h"
#include "engine/cuda/runtime.h"
#include "kineograph/error.h"
#include "random_case.h"

namespace kineograph::testing {
namespace {

namespace emulated = engine::cuda::emulated;

std::size_t bytes_of(const TensorView& view) {
  return view ? static_cast<std::size_t>(view.numel()) * size_of(view.dtype()) : 0;
}

TEST(CudaMemory, IsTheWorkspaceAndTheCallersTensorsAndIsGivenBack) {
  for (std::uint64_t seed = 0; seed < std::min<std::uint64_t>(num_cases(2), 6); ++seed) {
    const RandomCase c(seed, RandomCase::Options::cuda);
    const auto plan = engine::cuda::prepare_plan(c.config, c.weights, DType::bf16, std::size_t{100} << 10);
    const std::size_t before = emulated::bytes_in_use;
    emulated::most_bytes_in_use = before;
    Tensor output = c.make_output();
    plan->forward(c.inputs, output.mutable_view());
    EXPECT_EQ(emulated::bytes_in_use, before);
    const TensorView& context = c.inputs.encoder_hidden_states;
    const std::size_t staged =
        bytes_of(c.inputs.hidden_states) + (context ? 2 * static_cast<std::size_t>(context.numel()) : 0);
    EXPECT_EQ(emulated::most_bytes_in_use - before, plan->workspace_bytes(c.inputs) + staged) << c.describe();
  }
}

TEST(CudaMemory, ThatIsNotThereIsSaidAndNothingIsKept) {
  const RandomCase c(3, RandomCase::Options::cuda);
  const auto plan = engine::cuda::prepare_plan(c.config, c.weights, DType::f16);
  const std::size_t before = emulated::bytes_in_use, all = emulated::device_bytes;
  Tensor output = c.make_output();
  for (const std::size_t more : {std::size_t{0}, plan->workspace_bytes(c.inputs)}) {
    emulated::device_bytes = before + more;
    EXPECT_THROW(plan->forward(c.inputs, output.mutable_view()), Error);
    EXPECT_EQ(emulated::bytes_in_use, before);
  }
  emulated::device_bytes = before + 64;
  EXPECT_THROW(engine::cuda::prepare_plan(c.config, c.weights, DType::f16), Error);
  EXPECT_EQ(emulated::bytes_in_use, before);
  emulated::device_bytes = all;
  EXPECT_NO_THROW(plan->forward(c.inputs, output.mutable_view()));
}

// Weights lie on the device that was current when the plan was made.
TEST(CudaDevice, OfACallIsThatOfItsPlan) {
  const RandomCase c(3, RandomCase::Options::cuda);
  const auto plan = [&] {
    const engine::cuda::DeviceScope scope(1);
    return engine::cuda::prepare_plan(c.config, c.weights, DType::f16);
  }();
  const engine::cuda::DeviceScope scope(2);
  Tensor output = c.make_output();
  plan->forward(c.inputs, output.mutable_view());
  EXPECT_EQ(emulated::device_of_last_stream, 1);
  EXPECT_EQ(engine::cuda::current_device(), 2);
}

}  // namespace
}  // namespace kineograph::testing

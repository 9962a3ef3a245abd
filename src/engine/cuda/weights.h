// A model's weights in device memory: matrices in the compute dtype, everything else in f32, each as it lies in torch.
#pragma once

#include <vector>

#include "engine/cuda/arguments.h"
#include "engine/cuda/runtime.h"
#include "engine/engine.h"

namespace kineograph::engine::cuda {

/// weight (N, K) in T, bias (N) or null.
struct DeviceLinear {
  const void* weight = nullptr;
  const float* bias = nullptr;
  int rows = 0, columns = 0;
};
/// Both (width), or both null.
struct DeviceNorm {
  const float *weight = nullptr, *bias = nullptr;
};
struct DeviceAttention {
  DeviceLinear to_q, to_k, to_v, to_out;
};
struct DeviceBlock {
  DeviceNorm norm1, norm2, norm3;
  DeviceAttention attn1, attn2;
  DeviceLinear ff_in, ff_out;
  const float* positions = nullptr;  ///< (N, I) or null
};

class DeviceWeights {
 public:
  /// Copies all that a forward reads. Throws ArgumentError for a value that `compute` (f16 or bf16) cannot hold.
  DeviceWeights(const Weights& weights, DType compute);

  /// The device that they lie on.
  int device() const { return device_; }

  DeviceNorm norm;
  DeviceLinear proj_in, proj_out;
  std::vector<DeviceBlock> blocks;

 private:
  const void* upload(const TensorView& view, DType dtype);
  DeviceLinear linear(const Linear& layer);
  DeviceNorm norm_of(const Norm& layer);
  DeviceAttention attention(const Attention& layer);

  DType compute_;
  int device_ = current_device();
  OwnStream stream_;
  std::vector<DeviceMemory> memory_;
};

}  // namespace kineograph::engine::cuda

#include "engine/cuda/weights.h"

#include <cmath>

#include "base/half.h"
#include "kineograph/error.h"

namespace kineograph::engine::cuda {
namespace {

template <class T>
bool all_finite(const Tensor& tensor) {
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    if (!std::isfinite(to_float(tensor.data_as<T>()[i]))) return false;
  return true;
}

/// Infinities that the conversion made, or that were there, would make every sample NaN.
void check_range(const Tensor& converted) {
  if (converted.dtype() == DType::f16 ? all_finite<f16>(converted) : all_finite<bf16>(converted)) return;
  throw ArgumentError("a weight " + to_string(converted.shape()),
                      "values that " + std::string(name_of(converted.dtype())) + " holds", "one beyond it",
                      converted.dtype() == DType::f16 ? "compute_dtype bf16 has the range of f32." : "");
}

}  // namespace

DeviceWeights::DeviceWeights(const Weights& weights, DType compute) : norm(), compute_(compute) {
  norm = norm_of(weights.norm);
  proj_in = linear(weights.proj_in);
  proj_out = linear(weights.proj_out);
  for (const Block& block : weights.blocks) {
    DeviceBlock copy;
    copy.norm1 = norm_of(block.norm1);
    copy.norm2 = norm_of(block.norm2);
    copy.norm3 = norm_of(block.norm3);
    copy.attn1 = attention(block.attn1);
    copy.attn2 = attention(block.attn2);
    copy.ff_in = linear(block.ff_in);
    copy.ff_out = linear(block.ff_out);
    copy.positions = static_cast<const float*>(upload(block.pe, DType::f32));
    blocks.push_back(copy);
  }
}

const void* DeviceWeights::upload(const TensorView& view, DType dtype) {
  if (!view) return nullptr;
  const Tensor values = convert(view, dtype);
  if (dtype != DType::f32) check_range(values);
  memory_.emplace_back(values.bytes(), stream_);
  copy_to_device(memory_.back().data(), values.data(), values.bytes(), stream_);
  return memory_.back().data();
}

DeviceLinear DeviceWeights::linear(const Linear& layer) {
  if (!layer.weight) return {};
  return {upload(layer.weight, compute_), static_cast<const float*>(upload(layer.bias, DType::f32)),
          static_cast<int>(layer.weight.size(0)), static_cast<int>(layer.weight.size(1))};
}

DeviceNorm DeviceWeights::norm_of(const Norm& layer) {
  return {static_cast<const float*>(upload(layer.weight, DType::f32)),
          static_cast<const float*>(upload(layer.bias, DType::f32))};
}

DeviceAttention DeviceWeights::attention(const Attention& layer) {
  return {linear(layer.to_q), linear(layer.to_k), linear(layer.to_v), linear(layer.to_out)};
}

}  // namespace kineograph::engine::cuda

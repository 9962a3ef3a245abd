// Tensors of noise.
#pragma once

#include <random>

#include "kineograph/tensor.h"

namespace kineograph {

/// f32 from -1 to 1, the same for the same seed.
inline Tensor noise(const Shape& shape, unsigned seed = 7) {
  Tensor tensor(DType::f32, shape);
  std::mt19937 random(seed);
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data_as<float>()[i] = static_cast<float>(random()) * 0x1p-31f - 1;
  return tensor;
}

}  // namespace kineograph

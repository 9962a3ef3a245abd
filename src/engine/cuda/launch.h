// Queues kernels on a stream: the instantiation and the grid that arguments ask for.
#pragma once

#include <cstdint>

#include "engine/cuda/arguments.h"
#include "engine/cuda/runtime.h"
#include "kineograph/tensor.h"

namespace kineograph::engine::cuda {

/// Head widths beyond it have no kernel.
inline constexpr std::int64_t kMostHeadDim = 256;
/// Rows of a product: what the second axis of a grid has in tiles of 128.
inline constexpr std::int64_t kMostRows = std::int64_t{65535} * 128;

/// `image` is the dtype of the caller's pixels (f32, f16 or bf16), `compute` T (f16 or bf16). `blocks`: how many runs
/// of `count` elements.
void launch_moments(Stream stream, DType image, std::int64_t blocks, const MomentsArguments& arguments);
void launch_statistics(Stream stream, const StatisticsArguments& arguments);
void launch_gather(Stream stream, DType image, DType compute, const GatherArguments& arguments);
void launch_scatter(Stream stream, DType image, const ScatterArguments& arguments);
void launch_layer_norm(Stream stream, DType compute, const LayerNormArguments& arguments);
void launch_linear(Stream stream, DType compute, Epilogue epilogue, const LinearArguments& arguments);
void launch_attention(Stream stream, DType compute, const AttentionArguments& arguments);

}  // namespace kineograph::engine::cuda

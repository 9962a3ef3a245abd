#include "engine/cuda/attention.h"
#include "engine/cuda/image.h"
#include "engine/cuda/launch.h"
#include "engine/cuda/linear.h"
#include "engine/cuda/norms.h"

namespace kineograph::engine::cuda {
namespace {

/// body(T()) for a compute dtype.
template <class Body>
void with_compute(DType dtype, const Body& body) {
  if (dtype == DType::bf16)
    body(Bf16());
  else
    body(F16());
}
/// The same for the dtype of an image.
template <class Body>
void with_image(DType dtype, const Body& body) {
  if (dtype == DType::f32)
    body(0.0f);
  else
    with_compute(dtype, body);
}

std::int64_t divided_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

template <class T, Epilogue kEpilogue>
void linear(Stream stream, const LinearArguments& p) {
  constexpr int kColumns = is_gated(kEpilogue) ? kTileN / 2 : kTileN;
  launch(&linear_kernel<T, kEpilogue>, divided_up(p.n, kColumns), divided_up(p.m, kTileM), kLinearThreads,
         kLinearShared, stream, p);
}

template <class T>
void linear(Stream stream, Epilogue epilogue, const LinearArguments& p) {
  switch (epilogue) {
    case Epilogue::store:
      return linear<T, Epilogue::store>(stream, p);
    case Epilogue::widen:
      return linear<T, Epilogue::widen>(stream, p);
    case Epilogue::residual:
      return linear<T, Epilogue::residual>(stream, p);
    case Epilogue::last:
      return linear<T, Epilogue::last>(stream, p);
    case Epilogue::geglu:
      return linear<T, Epilogue::geglu>(stream, p);
    case Epilogue::gelu:
      return linear<T, Epilogue::gelu>(stream, p);
    case Epilogue::gelu_approximate:
      return linear<T, Epilogue::gelu_approximate>(stream, p);
    case Epilogue::geglu_approximate:
      return linear<T, Epilogue::geglu_approximate>(stream, p);
    case Epilogue::swiglu:
      return linear<T, Epilogue::swiglu>(stream, p);
    case Epilogue::linear_silu:
      return linear<T, Epilogue::linear_silu>(stream, p);
  }
}

/// The narrowest kernel that holds a head: those of the published models (40, 64, 80, 160), and what is between.
template <class T, int kWidth, int... kWider>
void attention(Stream stream, const AttentionArguments& p) {
  if constexpr (sizeof...(kWider) != 0)
    if (p.head_dim > kWidth) return attention<T, kWider...>(stream, p);
  constexpr int kWarps = attention_warps(kWidth);
  const std::int64_t units = std::int64_t{p.pixels} * p.heads * divided_up(p.frames, 16);
  launch(&attention_kernel<T, kWidth>, divided_up(units, kWarps), 1, 32 * kWarps, attention_shared(kWidth), stream, p);
}

}  // namespace

void launch_moments(Stream stream, DType image, std::int64_t blocks, const MomentsArguments& arguments) {
  with_image(image, [&]<class In>(In) {
    launch(&moments_kernel<In>, blocks, 1, kMomentsThreads, sizeof(float) * kMomentsThreads / 32, stream, arguments);
  });
}

void launch_statistics(Stream stream, const StatisticsArguments& arguments) {
  launch(&statistics_kernel<double>, divided_up(std::int64_t{arguments.sets} * arguments.groups, kNormThreads), 1,
         kNormThreads, 0, stream, arguments);
}

void launch_gather(Stream stream, DType image, DType compute, const GatherArguments& arguments) {
  with_image(image, [&]<class In>(In) {
    with_compute(compute, [&]<class T>(T) {
      launch(&gather_kernel<In, T>, image_blocks(arguments.slab, arguments.channels), 1, kImageThreads, kImageShared,
             stream, arguments);
    });
  });
}

void launch_scatter(Stream stream, DType image, const ScatterArguments& arguments) {
  with_image(image, [&]<class In>(In) {
    launch(&scatter_kernel<In>, image_blocks(arguments.slab, arguments.channels), 1, kImageThreads, kImageShared,
           stream, arguments);
  });
}

void launch_layer_norm(Stream stream, DType compute, const LayerNormArguments& arguments) {
  with_compute(compute, [&]<class T>(T) {
    launch(&layer_norm_kernel<T>, divided_up(arguments.tokens, kNormThreads / 32), 1, kNormThreads, 0, stream,
           arguments);
  });
}

void launch_linear(Stream stream, DType compute, Epilogue epilogue, const LinearArguments& arguments) {
  with_compute(compute, [&]<class T>(T) { linear<T>(stream, epilogue, arguments); });
}

void launch_attention(Stream stream, DType compute, const AttentionArguments& arguments) {
  with_compute(compute, [&]<class T>(T) { attention<T, 48, 64, 96, 160, kMostHeadDim>(stream, arguments); });
}

}  // namespace kineograph::engine::cuda

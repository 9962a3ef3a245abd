// A model on a device: GroupNorm's statistics of a clip, then slab after slab of its pixels through all layers.
#pragma once

#include <cstddef>
#include <memory>

#include "engine/engine.h"

namespace kineograph::engine::cuda {

/// Memory that a slab may take. Slabs of this size are tens of thousands of tokens: more than any card works on at
/// once.
inline constexpr std::size_t kSlabBytes = std::size_t{256} << 20;

/// Throws ArgumentError, naming it, for what the kernels do not do.
void check_model(const TransformerTemporalConfig& config);

/// `compute` is f16 or bf16, `config` one that check_model lets pass.
std::unique_ptr<const Plan> prepare_plan(const TransformerTemporalConfig& config, const Weights& weights, DType compute,
                                         std::size_t slab_bytes = kSlabBytes);

}  // namespace kineograph::engine::cuda

#include "engine/cpu/backward/buffers.h"

#include <algorithm>
#include <numeric>

namespace kineograph::engine::cpu {
namespace {

/// visit(buffer, floats) for all of them.
template <class Visit>
void each_buffer(BackwardBuffers& buffers, const BufferSizes& sizes, Visit&& visit) {
  for (Held& input : buffers.block_inputs) visit(input.memory, sizes.block_input);
  for (std::size_t i = 0; i < kStorages; ++i) visit(buffers.storage[i].memory, sizes.storage[i]);
  visit(buffers.transposed.memory, sizes.transposed);
  visit(buffers.moments, sizes.moments);
  visit(buffers.operand, sizes.operand);
  visit(buffers.paired, sizes.paired);
}

}  // namespace

std::size_t operand_panel(const Call& call, const TrainedModel& trained, std::size_t lanes) {
  const PackedModel& model = *call.model;
  const std::size_t widest = std::max({model.inner, model.channels, trained.chunk, call.context_dim, model.classes()});
  return pad_channels(widest) * lanes;
}

BufferSizes::BufferSizes(const Call& call, const TrainedModel& trained, const TileShape& shape) {
  const PackedModel& model = *call.model;
  const std::size_t panel = 2 * shape.lanes, panels = shape.panels();
  const std::size_t context_panels = (call.context_tokens * shape.runs + 1) / 2;
  const std::size_t key_panels = std::max(panels, context_panels);
  const auto rows = [&](std::size_t count, std::size_t channels) { return count * pad_channels(channels) * panel; };
  const auto set = [&](std::initializer_list<Storage> all, std::size_t floats) {
    for (const Storage piece : all) this->storage[static_cast<std::size_t>(piece)] = floats;
  };
  layers = model.blocks.size();
  block_input = rows(panels, model.inner);
  set({Storage::x1, Storage::x2, Storage::normed1, Storage::normed2, Storage::normed3, Storage::queries1,
       Storage::queries2, Storage::attended1, Storage::attended2, Storage::branch, Storage::d_x, Storage::d_branch,
       Storage::d_normed},
      rows(panels, model.inner));
  set({Storage::keys1, Storage::keys2, Storage::values1, Storage::values2}, rows(key_panels, model.inner));
  set({Storage::last}, model.config.is_discrete() ? rows(panels, model.inner) : 0);
  set({Storage::image}, rows(panels, model.channels));
  set({Storage::ends}, rows(panels, std::max(model.channels, model.classes())));
  const std::size_t hidden = panels * trained.chunk * panel;
  set({Storage::hidden, Storage::d_hidden}, hidden);
  set({Storage::projected}, hidden * (trained.gated ? 2 : 1));
  set({Storage::context, Storage::d_context}, rows(context_panels, call.context_dim));
  const std::size_t widest = std::max({model.inner, model.channels, trained.chunk});
  transposed = std::max(panels * round_up(widest, panel), context_panels * round_up(call.context_dim, panel)) * panel;
  moments = panels * 2 * panel;
  const bool pairs = is_paired(trained_arithmetic(model));
  operand = paired = pairs ? key_panels * operand_panel(call, trained, shape.lanes) : 0;
}

std::size_t BufferSizes::bytes() const {
  const std::size_t floats = layers * block_input + std::accumulate(storage.begin(), storage.end(), std::size_t{0}) +
                             transposed + moments + operand + paired;
  return floats * sizeof(float);
}

void grow_all(BackwardBuffers& buffers, const BufferSizes& sizes) {
  buffers.block_inputs.resize(sizes.layers);
  bool small = false;
  each_buffer(buffers, sizes,
              [&](const Buffer<float>& buffer, std::size_t size) { small = small || buffer.size() < size; });
  if (!small) return;
  buffers = {};
  buffers.block_inputs.resize(sizes.layers);
  Slab slab(sizes.bytes());
  each_buffer(buffers, sizes, [&](Buffer<float>& buffer, std::size_t size) { buffer = Buffer<float>(size, &slab); });
}

}  // namespace kineograph::engine::cpu

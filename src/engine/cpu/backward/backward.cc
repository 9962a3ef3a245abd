#include "engine/cpu/backward/backward.h"

#include <tbb/info.h>

#include <algorithm>
#include <functional>

#include "base/assert.h"
#include "engine/cpu/backward/finish.h"
#include "engine/cpu/call/make.h"
#include "engine/cpu/schedule/schedule.h"
#include "engine/ranks.h"

namespace kineograph::engine::cpu {
namespace {

/// Tokens of a tile. Each tile adds once to every weight's gradient in memory, so that few tokens would make that the
/// work; many leave the L2 cache.
constexpr std::size_t kTileTokens = 512;

/// Most bytes of a tile's buffers: wide models get smaller tiles.
constexpr std::size_t kTileBytes = std::size_t{48} << 20;

/// The most tiles that are walked at once. They follow each other as closely as their longest addition lets them, about
/// a fiftieth of a tile's time.
constexpr int kMostWalkers = 32;

/// Number of tiles that are walked at once: one a thread if there are enough, and equal numbers of threads for each.
std::size_t walkers_of(std::size_t tiles, int threads) {
  // Threads beyond the cores would only take turns, and each needs memory; a few, so that any machine can try them. An
  // executor knows how many it has.
  const int cores = host().region != nullptr ? threads : std::max(4, tbb::info::default_concurrency());
  return std::min(tiles, static_cast<std::size_t>(std::min({threads, cores, kMostWalkers})));
}

WorkspaceSizes scratch_sizes(const Call& call, const Target& target) {
  WorkspaceSizes sizes;
  sizes.scores = target.backward_scratch(call.frames, std::max(call.frames, call.context_tokens));
  return sizes;
}

}  // namespace

BackwardPlan::BackwardPlan(const Weights& weights, const PackedModel& model, const Target& target)
    : weights_(weights),
      model_(model),
      target_(target),
      trained_(pack_trained(model.config, weights, trained_arithmetic(model), target.max_rows)) {}

void BackwardPlan::run(const Call& call, const Conditioning& conditioning, const Gradients& gradients,
                       const Image& d_output, const Lent& lent, int threads) {
  const Pool<State>::Borrowed state(states_);
  clear(state->sums, call, gradients);
  // Tiles add to these in the caller's memory.
  each_linear(gradients.weights, [](const LinearOf<MutableTensorView>& linear) {
    for (const MutableTensorView* view : {&linear.weight, &linear.bias})
      if (*view) std::fill_n(static_cast<float*>(view->data()), view->numel(), 0.0f);
  });
  BackwardCall backward;
  backward.call = &call;
  backward.model = &trained_;
  backward.conditioning = &conditioning;
  backward.d_output = d_output;
  backward.d_input = image_of(gradients.hidden_states, call.inputs->width);
  backward.gradients = &gradients;
  backward.sums = &state->sums;
  Ranks* const ranks = backward.d_input ? call.inputs->ranks : nullptr;
  std::vector<double> rows;
  const auto there_and_back = [&] {
    walk(backward, *state, threads);
    if (ranks != nullptr) rows = sum_rows(backward, threads);
  };
  run_on(lent, threads, std::cref(there_and_back));
  if (ranks != nullptr) rows = ranks->gather_sums(rows);
  const auto finish = [&] {
    if (backward.d_input)
      finish_input(backward, ranks != nullptr ? means_of(call, rows) : group_means(backward), threads);
    finish_parameters(backward, weights_);
  };
  run_on(lent, threads, std::cref(finish));
}

void BackwardPlan::run_forward(const Call& call, int threads) {
  const Pool<State>::Borrowed state(states_);
  BackwardCall backward;
  backward.call = &call;
  backward.model = &trained_;
  backward.forward_only = true;
  walk(backward, *state, threads);
}

TileShape BackwardPlan::tile_shape(const Call& call) const {
  const auto shape = [&](std::size_t vectors) { return choose_tile(target_.lanes, call.frames, call.pixels, vectors); };
  std::size_t vectors = kTileTokens / target_.lanes;
  while (vectors > call.frames && BufferSizes(call, trained_, shape(vectors)).bytes() > kTileBytes) vectors /= 2;
  return shape(vectors);
}

void BackwardPlan::walk(const BackwardCall& backward, State& state, int threads) {
  const Call& call = *backward.call;
  KINEOGRAPH_ASSERT(!call.tiles_may_span_videos);
  const TileShape shape = tile_shape(call);
  const std::size_t walkers = walkers_of(tile_count(call, shape), threads);
  state.buffers.resize(walkers);
  // Each by the thread that is likely to use it: memory is near to the thread that writes it first.
  const BufferSizes sizes(call, trained_, shape);
  for_each_index(threads, walkers, [&](std::size_t walker) { grow_all(state.buffers[walker], sizes); });
  const auto tile = [&](const Tile& t, Team& team, Turns& turns, std::size_t walker) {
    target_.walk_backward(backward, t, team, turns, state.buffers[walker]);
  };
  walk_tiles_in_order(call, shape, threads, walkers, scratch_sizes(call, target_), workspaces_, std::cref(tile));
}

}  // namespace kineograph::engine::cpu

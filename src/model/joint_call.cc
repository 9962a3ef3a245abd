#include "model/joint_call.h"

#include <bit>

namespace kineograph::model {
namespace {

/// FNV-1a over 64-bit words: tells arguments that differ, no more.
std::uint64_t hash_of(const engine::Inputs& inputs) {
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](std::uint64_t word) {
    for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (word >> 8 * byte & 0xff)) * 0x100000001b3;
  };
  for (const double time : inputs.timestep) add(std::bit_cast<std::uint64_t>(time));
  for (const std::int64_t label : inputs.class_labels) add(static_cast<std::uint64_t>(label));
  if (inputs.training_seed) add(*inputs.training_seed + 1);
  return hash;
}

}  // namespace

void JointCall::begin(const TransformerTemporalConfig& config, engine::Inputs& inputs,
                      const engine::Gradients* gradients) {
  if (waiting_ == nullptr) return;
  engine::SharedCall call;
  call.first_row = inputs.first_row;
  call.rows = inputs.height;
  call.total_rows = inputs.total_rows;
  call.backward = gradients != nullptr;
  call.wants_input = gradients != nullptr && gradients->hidden_states;
  call.videos = inputs.num_videos;
  call.frames = inputs.num_frames;
  call.channels = inputs.channels;
  call.width = inputs.width;
  const bool nothing = inputs.width == 0 || inputs.channels == 0;
  if (!config.is_discrete() && !nothing) {
    call.sets = inputs.num_videos * (config.group_norm_scope == GroupNormScope::frame ? inputs.num_frames : 1);
    call.groups = config.norm_num_groups;
  }
  call.arguments = hash_of(inputs);
  ranks_.emplace(*waiting_);
  waiting_ = nullptr;
  ranks_->agree(call);
  inputs.ranks = &*ranks_;
}

}  // namespace kineograph::model

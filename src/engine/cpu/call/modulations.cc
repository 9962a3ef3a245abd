#include "engine/cpu/call/modulations.h"

#include <algorithm>

namespace kineograph::engine::cpu {
namespace {

/// One block's values for one video: three scales (I), three shifts (frames that an attention sees, I), two gates.
/// Gates meet the padded rows of products too.
struct Values {
  std::size_t inner, frames;
  float* data;
  std::size_t gate_rows() const { return pad_channels(inner); }
  std::size_t size() const { return 3 * inner + 3 * frames * inner + 2 * gate_rows(); }
  float* scale(std::size_t which) const { return data + which * inner; }
  float* shift(std::size_t which) const { return data + 3 * inner + which * frames * inner; }
  float* gate(std::size_t which) const { return data + 3 * inner + 3 * frames * inner + which * gate_rows(); }
};

/// n (1 + by) + add, with the norm's own affine first: scale' = scale (1 + by), shift' = bias (1 + by) + add + pe. A
/// conditioned norm with positions has no bias of its own (norm1, norm2), one with a bias no positions (norm3).
void condition(std::size_t which, const std::vector<double>& by, const std::vector<double>& add, const Values& values,
               Affine& norm) {
  if (by.empty()) return;
  const Affine own = norm;
  const bool positions = own.frame_stride != 0;
  float *scale = values.scale(which), *shift = values.shift(which);
  for (std::size_t c = 0; c < values.inner; ++c)
    scale[c] = static_cast<float>(static_cast<double>(own.scale[c]) * (1.0 + by[c]));
  for (std::size_t f = 0; f < (positions ? values.frames : 1); ++f)
    for (std::size_t c = 0; c < values.inner; ++c) {
      const double bias = static_cast<double>(own.shift[f * own.frame_stride + c]);
      shift[f * values.inner + c] = static_cast<float>(positions ? bias + add[c] : bias * (1.0 + by[c]) + add[c]);
    }
  norm = {scale, shift, own.frame_stride, true};
}

const float* set_gate(const std::vector<double>& factors, const Values& values, std::size_t which) {
  if (factors.empty()) return nullptr;
  float* gate = values.gate(which);
  for (std::size_t c = 0; c < values.inner; ++c) gate[c] = static_cast<float>(factors[c]);
  if (values.gate_rows() > values.inner) gate[values.inner] = 0.0f;
  return gate;
}

/// Shifts with positions, made for the frames that come and not for all that the tables have.
void add_positions(const PackedModel& model, std::size_t frames, Modulations& made) {
  const bool some = std::any_of(model.blocks.begin(), model.blocks.end(),
                                [](const PackedBlock& block) { return block.positions != nullptr; });
  if (!some || made.positioned_frames == frames) return;
  made.positioned_frames = 0;
  made.positioned.resize(model.blocks.size() * 2 * frames * model.inner);
  float* to = made.positioned.data();
  for (const PackedBlock& block : model.blocks)
    for (std::size_t which = 0; which < 2; ++which)
      for (std::size_t f = 0; f < frames; ++f)
        for (std::size_t c = 0; c < model.inner; ++c)
          *to++ =
              (block.positions == nullptr ? 0.0f : block.positions[f * model.inner + c]) + block.norm_shift[which][c];
  made.positioned_frames = frames;
}

/// A norm without conditioning.
Affine plain_norm(const PackedModel& model, std::size_t layer, std::size_t which, std::size_t frames,
                  const Modulations& made) {
  const PackedBlock& block = model.blocks[layer];
  const float* scale = block.norm_scale[which].data();
  if (which >= 2 || block.positions == nullptr) return {scale, block.norm_shift[which].data(), 0};
  return {scale, made.positioned.data() + (2 * layer + which) * frames * model.inner, model.inner};
}

}  // namespace

void modulate(const Weights& weights, const Inputs& inputs, Call& call, Modulations& made) {
  const PackedModel& model = *call.model;
  const std::size_t layers = model.blocks.size();
  const std::size_t frames = call.attended_frames;
  add_positions(model, frames, made);
  call.modulations.assign(layers * call.videos, {});
  for (std::size_t layer = 0; layer < layers; ++layer)
    for (std::size_t video = 0; video < call.videos; ++video)
      for (std::size_t which = 0; which < kNorms; ++which)
        call.modulations[layer * call.videos + video].norm[which] = plain_norm(model, layer, which, frames, made);
  if (model.config.norm_type == NormType::layer_norm) return;
  made.conditioning = compute_conditioning(model.config, weights, inputs);
  Values values{model.inner, frames, nullptr};
  made.values.resize(layers * call.videos * values.size());
  values.data = made.values.data();
  for (std::size_t layer = 0; layer < layers; ++layer)
    for (std::size_t video = 0; video < call.videos; ++video, values.data += values.size()) {
      const BlockConditioning& from = made.conditioning.at(layer, video);
      Modulation& to = call.modulations[layer * call.videos + video];
      condition(0, from.norm1_scale, from.norm1_shift, values, to.norm[0]);
      condition(1, from.norm2_scale, from.norm2_shift, values, to.norm[1]);
      condition(2, from.norm3_scale, from.norm3_shift, values, to.norm[2]);
      to.gate_attn1 = set_gate(from.gate_attn1, values, 0);
      to.gate_ff = set_gate(from.gate_ff, values, 1);
    }
}

}  // namespace kineograph::engine::cpu

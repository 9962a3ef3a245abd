#include "engine/cpu/backward/sums.h"

namespace kineograph::engine::cpu {
namespace {

bool wanted(const NormOf<MutableTensorView>& norm) { return norm.weight || norm.bias; }
bool wanted(const LinearOf<MutableTensorView>& linear) { return linear.weight || linear.bias; }
bool wanted(const AdaNormOf<MutableTensorView>& norm) {
  return norm.emb || wanted(norm.timestep_linear_1) || wanted(norm.timestep_linear_2) || norm.class_table ||
         wanted(norm.linear);
}

void clear(std::vector<double>& values, std::size_t count) { values.assign(count, 0.0); }
void clear(NormSums& sums, std::size_t count) {
  clear(sums.along, count);
  clear(sums.plain, count);
}

}  // namespace

void clear(BackwardSums& sums, const Call& call, const Gradients& gradients) {
  const PackedModel& model = *call.model;
  const std::size_t layers = model.blocks.size(), videos = call.videos, inner = model.inner;
  const bool zero = model.config.norm_type == NormType::ada_norm_zero;
  sums.norms.resize(layers * 3 * videos);
  sums.gates.resize(layers * 2 * videos);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const BlockOf<MutableTensorView>& to = gradients.weights.blocks[layer];
    const bool want[3] = {wanted(to.norm1) || wanted(to.ada_norm1), wanted(to.norm2) || wanted(to.ada_norm2),
                          wanted(to.norm3) || (zero && wanted(to.ada_norm1))};
    for (std::size_t video = 0; video < videos; ++video) {
      for (std::size_t which = 0; which < 3; ++which)
        clear(sums.norms[(layer * 3 + which) * videos + video], want[which] ? inner : 0);
      for (std::size_t which = 0; which < 2; ++which)
        clear(sums.gates[(layer * 2 + which) * videos + video], zero && wanted(to.ada_norm1) ? inner : 0);
    }
  }
  clear(sums.group_norm, model.config.is_discrete() ? 0 : call.group_sets() * model.channels);
  clear(sums.norm_out, wanted(gradients.weights.norm_out) ? inner : 0);
  clear(sums.latent, model.latent_emb.size());
  clear(sums.height, model.latent_height_emb.size());
  clear(sums.width, model.latent_width_emb.size());
  const bool shared = gradients.encoder_hidden_states && call.inputs->encoder_per_video;
  clear(sums.encoder, shared ? videos * call.context_tokens * call.context_dim : 0);
}

}  // namespace kineograph::engine::cpu

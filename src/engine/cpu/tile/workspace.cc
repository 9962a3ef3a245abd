#include "engine/cpu/tile/workspace.h"

#include <algorithm>

namespace kineograph::engine::cpu {

ClipHead clip_head(const PackedModel& model, const TileShape& shape, std::size_t attended_frames) {
  const std::size_t panel = 2 * shape.lanes;
  return {pad_channels(model.head_dim) * panel, 2 * model.head_dim * panel, shape.panels(),
          (attended_frames + panel - 1) / panel};
}

WorkspaceSizes workspace_sizes(const PackedModel& model, const TileShape& shape, std::size_t attended_frames,
                               std::size_t context_tokens, std::size_t context_dim) {
  const std::size_t panel = 2 * shape.lanes, panels = shape.panels();
  const std::size_t attended_panels = TileShape{shape.lanes, attended_frames, shape.runs}.panels();
  // A pair of bf16 channels takes half the words of a pair of f32 ones.
  const std::size_t pair_words = is_paired(model.arithmetic) ? panel : 2 * panel;
  const auto operand = [&](std::size_t channels, std::size_t count) {
    return count * pad_channels(channels) / 2 * pair_words;
  };
  const std::size_t context_panels = (context_tokens * shape.runs + 1) / 2;
  const std::size_t step = std::min(panels, kTallPanels);
  WorkspaceSizes sizes;
  sizes.x = panels * pad_channels(model.inner) * panel;
  sizes.normed = operand(model.inner, step);
  sizes.attended = std::max(operand(model.inner, attended_panels), operand(model.channels, step));
  sizes.context = operand(context_dim, context_panels);
  if (attended_frames != shape.frames) {
    sizes.window = attended_panels * pad_channels(model.inner) * panel;
    sizes.averaged = sizes.attended_average = sizes.x;
    const ClipHead head = clip_head(model, shape, attended_frames);
    sizes.clip_heads = model.heads * head.floats();
    sizes.positions = operand(model.inner, head.position_panels);
  }
  const std::size_t q_rows = pad_channels(model.head_dim), kv_rows = 2 * model.head_dim;
  sizes.qkv = (attended_panels * q_rows + std::max(attended_panels, context_panels) * kv_rows) * panel;
  const std::size_t keys = std::max(context_tokens, attended_frames);
  // Values of bf16 pairs (OwnHeadInPairs); their queries and keys take half.
  if (model.arithmetic == Arithmetic::bf16) sizes.qkv += round_up(keys, 4) / 4 * model.head_dim * panel;
  // Sixteen queries' scores or a batch's and a block of keys'; or one panel's scores and outputs; or one panel's class
  // logits.
  const auto attention = [&](std::size_t count) {
    return attends_in_blocks(shape.lanes, model.head_dim, count) ? long_attention_floats(shape.lanes, model.head_dim)
                                                                 : 16 * count * shape.lanes;
  };
  sizes.scores = std::max({attention(context_tokens), attention(attended_frames),
                           (pad_channels(context_tokens) + q_rows) * panel, model.out.rows * panel});
  sizes.hidden = operand(model.hidden_chunk, step);
  sizes.block = 2 * block_rows(model.arithmetic, 16) * panel;  // two blocks of rows
  return sizes;
}

}  // namespace kineograph::engine::cpu

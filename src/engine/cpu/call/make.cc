#include "engine/cpu/call/make.h"

#include <algorithm>

#include "engine/cpu/call/shared_context.h"

namespace kineograph::engine::cpu {
namespace {

ContextTokens context_of(const Inputs& inputs) {
  const TensorView& encoder = inputs.encoder_hidden_states;
  return {static_cast<const std::byte*>(encoder.data()),
          encoder.dtype(),
          inputs.encoder_per_video,
          encoder.strides()[0],
          encoder.strides()[1],
          encoder.strides()[2]};
}

}  // namespace

Image image_of(const TensorView& view, std::int64_t width) {
  if (!view) return {};
  Image image;
  image.data = static_cast<std::byte*>(const_cast<void*>(view.data()));
  image.dtype = view.dtype();
  image.stride_n = view.strides()[0];
  image.stride_c = view.strides()[1];
  const bool flat = view.rank() == 3;
  image.stride_h = view.strides()[2] * (flat ? width : 1);
  image.stride_w = view.strides()[flat ? 2 : 3];
  return image;
}

bool any_processor(const Inputs& inputs) {
  return std::any_of(inputs.processors.begin(), inputs.processors.end(),
                     [](const AttentionProcessor* processor) { return processor != nullptr; });
}

void describe(const CallRequest& request, Call& call) {
  const Inputs& inputs = request.inputs;
  const TransformerTemporalConfig& config = request.model.config;
  call.model = &request.model;
  call.inputs = &inputs;
  call.videos = static_cast<std::size_t>(inputs.num_videos);
  call.frames = static_cast<std::size_t>(inputs.num_frames);
  call.height = static_cast<std::size_t>(inputs.height);
  call.width = static_cast<std::size_t>(inputs.width);
  call.pixels = call.height * call.width;
  call.first_row = static_cast<std::size_t>(inputs.first_row);
  call.total_rows = static_cast<std::size_t>(inputs.total_rows);
  call.attended_frames = static_cast<std::size_t>(inputs.context.attended_frames(inputs.num_frames));
  call.group_set_per_frame = config.group_norm_scope == GroupNormScope::frame;
  call.input = config.is_discrete() ? Image() : image_of(inputs.hidden_states, inputs.width);
  call.output = image_of(request.output, inputs.width);
  const bool processed = any_processor(inputs);
  call.processors.clear();
  if (processed) call.processors = inputs.processors;
  const bool conditioned = inputs.encoder_hidden_states && config.has_attn2();
  call.context_tokens = conditioned ? static_cast<std::size_t>(inputs.encoder_hidden_states.size(1)) : 0;
  call.context_dim = conditioned ? static_cast<std::size_t>(inputs.encoder_hidden_states.size(2)) : 0;
  call.context = conditioned ? context_of(inputs) : ContextTokens();
  call.shared_context.clear();
  call.tiles_may_span_videos = request.purpose == Purpose::inference && config.norm_type == NormType::layer_norm &&
                               !processed && !(conditioned && inputs.encoder_per_video);
}

const Call& make_call(const CallRequest& request, int threads, CallMemory& memory) {
  Call& call = memory.call;
  describe(request, call);
  const bool inference = request.purpose == Purpose::inference;
  if (!request.model.config.is_discrete()) {
    // Training meets the norm's weight and bias by themselves.
    if (call.inputs->ranks == nullptr) take_moments(call, request.target, threads, memory.group_norm);
    make_tables(call, inference, memory.group_norm);
    call.group_mean = memory.group_norm.mean.data();
    call.group_scale = memory.group_norm.scale.data();
    call.group_shift = memory.group_norm.shift.data();
  }
  modulate(request.weights, request.inputs, call, memory.modulations);
  if (inference && call.context_tokens != 0 && call.context.per_video) project_context(request.target, threads, call);
  return call;
}

}  // namespace kineograph::engine::cpu

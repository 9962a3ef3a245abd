#include "engine/cuda/plan.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/half.h"
#include "engine/cuda/launch.h"
#include "engine/cuda/layout.h"
#include "engine/cuda/weights.h"
#include "engine/epsilons.h"
#include "engine/progress.h"
#include "kineograph/error.h"

namespace kineograph::engine::cuda {
namespace {

Epilogue epilogue_of(Activation activation) {
  switch (activation) {
    case Activation::geglu:
      return Epilogue::geglu;
    case Activation::gelu:
      return Epilogue::gelu;
    case Activation::gelu_approximate:
      return Epilogue::gelu_approximate;
    case Activation::geglu_approximate:
      return Epilogue::geglu_approximate;
    case Activation::swiglu:
      return Epilogue::swiglu;
    case Activation::linear_silu:
      return Epilogue::linear_silu;
  }
  return Epilogue::gelu;
}

Extents extents_of(const TransformerTemporalConfig& config, const Inputs& inputs) {
  const bool conditioned = config.has_attn2() && inputs.encoder_hidden_states;
  Extents e;
  e.videos = inputs.num_videos;
  e.frames = inputs.num_frames;
  e.pixels = inputs.height * inputs.width;
  e.channels = inputs.channels;
  e.groups = config.norm_num_groups;
  e.inner = config.inner_dim();
  e.hidden = 4 * e.inner;
  e.keys = conditioned ? inputs.encoder_hidden_states.size(1) : 0;
  e.keys_per_video = conditioned && inputs.encoder_per_video;
  e.per_frame = config.group_norm_scope == GroupNormScope::frame;
  return e;
}

[[noreturn]] void refuse(const std::string& where, const std::string& expected, const std::string& found) {
  throw ArgumentError(where, expected, found, "Engines cpu and reference take it.");
}

void check_call(const TransformerTemporalConfig& config, const Inputs& inputs) {
  if (inputs.ranks != nullptr) refuse("communicator on engine cuda", "none", "one");
  if (!inputs.context.empty())
    refuse("context on engine cuda", "none", "windows of " + std::to_string(inputs.context.length) + " frames");
  if (std::any_of(inputs.processors.begin(), inputs.processors.end(), [](const auto* p) { return p != nullptr; }))
    refuse("attention_processors on engine cuda", "none", "some");
  if (inputs.training_seed && config.dropout > 0.0)
    refuse("training_seed on engine cuda", "none, as dropout is above 0", std::to_string(*inputs.training_seed));
  if (inputs.height * inputs.width >= std::int64_t{1} << 30)
    refuse("hidden_states on engine cuda", "fewer than 2^30 pixels a frame",
           std::to_string(inputs.height * inputs.width));
}

/// Host values in device memory.
DeviceMemory stage(const TensorView& view, DType dtype, Stream stream) {
  const bool as_it_is = view.dtype() == dtype && view.is_contiguous();
  const Tensor copy = as_it_is ? Tensor() : convert(view, dtype);
  const std::size_t bytes = static_cast<std::size_t>(view.numel()) * size_of(dtype);
  DeviceMemory memory(bytes, stream);
  copy_to_device(memory.data(), as_it_is ? view.data() : copy.data(), bytes, stream);
  return memory;
}

/// The elements of a contiguous (B*F, C, H, W) at a view's places.
void spread(const Tensor& from, const MutableTensorView& to) {
  dispatch_floating(from.dtype(), [&]<class From>(From) {
    dispatch_floating(to.dtype(), [&]<class To>(To) {
      const From* next = from.data_as<From>();
      const Shape& shape = to.shape();
      const Dims& strides = to.strides();
      for (std::int64_t n = 0; n < shape[0]; ++n)
        for (std::int64_t c = 0; c < shape[1]; ++c)
          for (std::int64_t y = 0; y < shape[2]; ++y)
            for (std::int64_t x = 0; x < shape[3]; ++x)
              to.data_as<To>()[n * strides[0] + c * strides[1] + y * strides[2] + x * strides[3]] =
                  from_float<To>(to_float(*next++));
    });
  });
}

void fetch(const DeviceMemory& image, DType dtype, const MutableTensorView& output, Stream stream) {
  const std::size_t bytes = static_cast<std::size_t>(output.numel()) * size_of(dtype);
  if (output.dtype() == dtype && output.is_contiguous())
    return copy_to_host(output.data(), image.data(), bytes, stream);
  Tensor copy(dtype, output.shape());
  copy_to_host(copy.data(), image.data(), bytes, stream);
  spread(copy, output);
}

/// Device memory of a call, and the kernels that walk over it.
class Walk {
 public:
  /// image (B*F, C, H, W) in `image_dtype`, context (rows, S, D) in `compute` or null, workspace of layout.bytes.
  Walk(const TransformerTemporalConfig& config, const DeviceWeights& weights, DType compute, const Extents& extents,
       const Layout& layout, Stream stream, void* image, DType image_dtype, const void* context, void* workspace)
      : config_(config),
        weights_(weights),
        compute_(compute),
        e_(extents),
        layout_(layout),
        stream_(stream),
        image_(image),
        image_dtype_(image_dtype),
        context_(static_cast<const std::byte*>(context)),
        workspace_(static_cast<std::byte*>(workspace)) {}

  /// Of GroupNorm, over the whole clips: before the first slab, which overwrites its part of them.
  void take_statistics() const {
    const std::int64_t count = e_.channels / e_.groups * e_.pixels;
    launch_moments(stream_, image_dtype_, e_.rows() * e_.groups, {image_, at<Moments>(layout_.moments), count});
    const std::int64_t rows = e_.per_frame ? 1 : e_.frames;
    launch_statistics(stream_,
                      {at<Moments>(layout_.moments), at<GroupStatistics>(layout_.statistics), narrow(e_.sets()),
                       narrow(rows), narrow(e_.groups), static_cast<double>(count), kGroupNormEpsilon});
  }

  /// The image's pixels [first, first + pixels), through all layers.
  void slab(std::int64_t first, std::int64_t pixels) {
    slab_ = {first, narrow(pixels), narrow(e_.frames), narrow(e_.pixels)};
    launch_gather(stream_, image_dtype_, compute_,
                  {image_, at<GroupStatistics>(layout_.statistics), weights_.norm.weight, weights_.norm.bias,
                   at<void>(layout_.wide), slab_, narrow(e_.channels), narrow(e_.groups), e_.per_frame});
    const bool layers = !weights_.blocks.empty();
    multiply(layers ? Epilogue::widen : Epilogue::store, layout_.wide, {weights_.proj_in},
             layers ? layout_.stream : layout_.normalised);
    for (const DeviceBlock& block : weights_.blocks) {
      self_attention(block, block.norm1, block.attn1, 0);
      if (config_.has_attn2()) {
        if (context_ != nullptr)
          cross_attention(block);
        else
          self_attention(block, block.norm2, block.attn2, 1);
      }
      feed_forward(block, &block == &weights_.blocks.back());
    }
    multiply(Epilogue::widen, layout_.normalised, {weights_.proj_out}, layout_.wide);
    launch_scatter(stream_, image_dtype_, {at<float>(layout_.wide), image_, slab_, narrow(e_.channels)});
  }

 private:
  static int narrow(std::int64_t v) { return static_cast<int>(v); }

  template <class T>
  T* at(std::size_t offset) const {
    return static_cast<T*>(static_cast<void*>(workspace_ + offset));
  }
  /// `columns` elements of T behind it.
  const void* half_at(std::size_t offset, std::int64_t columns) const {
    return workspace_ + offset + 2 * static_cast<std::size_t>(columns);
  }

  /// to (tokens, N) = epilogue(from (tokens, K) W^T + bias), of one to three layers side by side.
  void multiply(Epilogue epilogue, std::size_t from, std::initializer_list<DeviceLinear> layers, std::size_t to) const {
    multiply_rows(epilogue, at<void>(from), slab_.tokens(), layers, to);
  }
  void multiply_rows(Epilogue epilogue, const void* from, std::int64_t rows, std::initializer_list<DeviceLinear> layers,
                     std::size_t to) const {
    const DeviceLinear& first = *layers.begin();
    LinearArguments p = {};
    p.x = from;
    std::size_t i = 0;
    for (const DeviceLinear& layer : layers) {
      p.weights[i] = layer.weight;
      p.biases[i++] = layer.bias;
    }
    p.y = at<void>(to);
    p.stream = at<float>(layout_.stream);
    p.m = narrow(rows);
    p.n = is_gated(epilogue) ? first.rows / 2 : first.rows * narrow(static_cast<std::int64_t>(layers.size()));
    p.k = first.columns;
    p.rows = first.rows;
    launch_linear(stream_, compute_, epilogue, p);
  }

  void normalise(const DeviceNorm& norm, const float* positions, std::size_t which) const {
    launch_layer_norm(
        stream_, compute_,
        {at<float>(layout_.stream), norm.weight, norm.bias, positions, at<void>(layout_.normalised), slab_.tokens(),
         narrow(e_.inner), slab_.pixels, static_cast<float>(norm_epsilon(config_, which))});
  }

  /// The arguments that both kinds of attention have in common.
  AttentionArguments attention_arguments() const {
    AttentionArguments p = {};
    p.query = at<void>(layout_.wide);
    p.out = at<void>(layout_.normalised);
    p.pixels = slab_.pixels;
    p.frames = slab_.frames;
    p.heads = narrow(config_.num_attention_heads);
    p.head_dim = narrow(config_.attention_head_dim);
    p.shared = 1;
    p.scale = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(config_.attention_head_dim)));
    return p;
  }

  void self_attention(const DeviceBlock& block, const DeviceNorm& norm, const DeviceAttention& attention,
                      std::size_t which) const {
    normalise(norm, block.positions, which);
    multiply(Epilogue::store, layout_.normalised, {attention.to_q, attention.to_k, attention.to_v}, layout_.wide);
    AttentionArguments p = attention_arguments();
    p.key = half_at(layout_.wide, e_.inner);
    p.value = half_at(layout_.wide, 2 * e_.inner);
    p.query_stride = p.key_stride = narrow(3 * e_.inner);
    p.keys = slab_.frames;
    p.base_step = 1;
    p.key_step = slab_.pixels;
    launch_attention(stream_, compute_, p);
    multiply(Epilogue::residual, layout_.normalised, {attention.to_out}, layout_.stream);
  }

  void cross_attention(const DeviceBlock& block) const {
    const DeviceAttention& attention = block.attn2;
    normalise(block.norm2, block.positions, 1);
    multiply(Epilogue::store, layout_.normalised, {attention.to_q}, layout_.wide);
    const ContextRows rows = context_rows(e_, slab_.first, slab_.pixels);
    const std::size_t row_bytes = 2 * static_cast<std::size_t>(attention.to_k.columns);
    multiply_rows(Epilogue::store, context_ + static_cast<std::size_t>(rows.first) * row_bytes, rows.count,
                  {attention.to_k, attention.to_v}, layout_.context);
    AttentionArguments p = attention_arguments();
    p.key = half_at(layout_.context, 0);
    p.value = half_at(layout_.context, e_.inner);
    p.query_stride = narrow(e_.inner);
    p.key_stride = narrow(2 * e_.inner);
    p.keys = p.base_step = narrow(e_.keys);
    p.key_step = 1;
    if (e_.keys_per_video) {
      p.offset = narrow(slab_.first % e_.pixels);
      p.shared = slab_.image_pixels;
    }
    launch_attention(stream_, compute_, p);
    multiply(Epilogue::residual, layout_.normalised, {attention.to_out}, layout_.stream);
  }

  /// proj_out takes T: behind the last block the stream is rounded as it is stored.
  void feed_forward(const DeviceBlock& block, bool last) const {
    normalise(block.norm3, nullptr, 2);
    multiply(epilogue_of(config_.activation_fn), layout_.normalised, {block.ff_in}, layout_.wide);
    multiply(last ? Epilogue::last : Epilogue::residual, layout_.wide, {block.ff_out},
             last ? layout_.normalised : layout_.stream);
  }

  const TransformerTemporalConfig& config_;
  const DeviceWeights& weights_;
  DType compute_;
  const Extents& e_;
  const Layout& layout_;
  Stream stream_;
  void* image_;
  DType image_dtype_;
  const std::byte* context_;
  std::byte* workspace_;
  Slab slab_;
};

class CudaPlan : public Plan {
 public:
  CudaPlan(const TransformerTemporalConfig& config, const Weights& weights, DType compute, std::size_t slab_bytes)
      : config_(config), compute_(compute), slab_bytes_(slab_bytes), weights_(weights, compute) {}

  std::size_t workspace_bytes(const Inputs& inputs) const override {
    return make_layout(extents_of(config_, inputs), slab_bytes_).bytes;
  }

  void forward(const Inputs& inputs, const MutableTensorView& output) const override {
    check_call(config_, inputs);
    const Extents e = extents_of(config_, inputs);
    const Layout layout = make_layout(e, slab_bytes_);
    // The sample replaces the input in device memory; where they differ in dtype, in one that holds both.
    const DType image_dtype = output.dtype() == inputs.hidden_states.dtype() ? output.dtype() : DType::f32;
    const DeviceScope device(weights_.device());
    const OwnStream stream;
    const DeviceMemory workspace(layout.bytes, stream);
    const DeviceMemory image = stage(inputs.hidden_states, image_dtype, stream);
    const DeviceMemory context = e.keys != 0 ? stage(inputs.encoder_hidden_states, compute_, stream) : DeviceMemory();
    Walk walk(config_, weights_, compute_, e, layout, stream, image.data(), image_dtype, context.data(),
              workspace.data());
    expect(inputs.progress, static_cast<std::size_t>((e.all_pixels() + layout.slab_pixels - 1) / layout.slab_pixels));
    walk.take_statistics();
    for (std::int64_t first = 0; first < e.all_pixels(); first += layout.slab_pixels) {
      walk.slab(first, std::min(layout.slab_pixels, e.all_pixels() - first));
      if (inputs.progress == nullptr) continue;
      stream.wait();
      advance(inputs.progress);
    }
    fetch(image, image_dtype, output, stream);
  }

  void backward(const Inputs&, const TensorView&, const Gradients&) const override {
    refuse("backward on engine cuda", "engine cpu or reference", "a call");
  }

 private:
  TransformerTemporalConfig config_;
  DType compute_;
  std::size_t slab_bytes_;
  DeviceWeights weights_;
};

}  // namespace

void check_model(const TransformerTemporalConfig& config) {
  const auto width = [](const std::string& name, std::int64_t value) {
    if (value % 8 != 0) refuse(name + " on engine cuda", "a multiple of 8", std::to_string(value));
  };
  if (config.is_discrete())
    refuse("num_vector_embeds on engine cuda", "none", std::to_string(*config.num_vector_embeds));
  if (config.norm_type != NormType::layer_norm)
    refuse("norm_type on engine cuda", "layer_norm", std::string(name_of(config.norm_type)));
  width("in_channels", config.in_channels.value_or(0));
  width("attention_head_dim", config.attention_head_dim);
  if (config.has_attn2()) width("cross_attention_dim", config.attn2_context_dim());
  if (config.attention_head_dim > kMostHeadDim)
    refuse("attention_head_dim on engine cuda", "at most " + std::to_string(kMostHeadDim),
           std::to_string(config.attention_head_dim));
}

std::unique_ptr<const Plan> prepare_plan(const TransformerTemporalConfig& config, const Weights& weights, DType compute,
                                         std::size_t slab_bytes) {
  return std::make_unique<CudaPlan>(config, weights, compute, slab_bytes);
}

}  // namespace kineograph::engine::cuda

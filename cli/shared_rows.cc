#include "shared_rows.h"

#include <cstring>

#include "base/share.h"

namespace kineograph::cli {
namespace {

TensorView slice(const TensorView& x, std::size_t axis, std::int64_t first, std::int64_t count) {
  Shape shape = x.shape();
  shape[axis] = count;
  const std::int64_t offset = first * x.strides()[axis] * static_cast<std::int64_t>(size_of(x.dtype()));
  return {static_cast<const std::byte*>(x.data()) + offset, x.dtype(), shape, x.strides()};
}

/// Of a conditioning with a row a pixel, (B*H*W, S, D), those of a rank's pixels of each video.
Tensor pixels_of(const TensorView& encoder, std::int64_t videos, const Share& pixels) {
  const std::int64_t each = encoder.size(0) / videos;
  Tensor all(encoder.dtype(), {videos * pixels.count, encoder.size(1), encoder.size(2)});
  for (std::int64_t video = 0; video < videos && pixels.count != 0; ++video) {
    const Tensor own = convert(slice(encoder, 0, video * each + pixels.first, pixels.count), encoder.dtype());
    std::memcpy(static_cast<std::byte*>(all.data()) + static_cast<std::size_t>(video) * own.bytes(), own.data(),
                own.bytes());
  }
  return all;
}

/// The whole of every rank's sample, (N, C, rows, W) or (N, C, rows * W).
Tensor join(Job& job, const Tensor& mine, std::int64_t height, std::int64_t width) {
  const int ranks = job.ranks().size();
  const std::size_t outer = static_cast<std::size_t>(mine.shape()[0] * mine.shape()[1]);
  std::vector<std::size_t> row_bytes, bytes, begins;
  std::size_t begin = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto pixels = static_cast<std::size_t>(share_of(height, rank, ranks).count * width);
    row_bytes.push_back(pixels * size_of(mine.dtype()));
    bytes.push_back(outer * row_bytes.back());
    begins.push_back(begin);
    begin += bytes.back();
  }
  const std::vector<std::byte> parts = job.gather({static_cast<const std::byte*>(mine.data()), mine.bytes()}, bytes);
  if (job.ranks().rank() != 0) return {};
  Shape shape = mine.shape();
  shape[2] = shape.size() == 4 ? height : height * width;
  Tensor all(mine.dtype(), shape);
  auto* to = static_cast<std::byte*>(all.data());
  for (std::size_t i = 0; i < outer; ++i)
    for (std::size_t rank = 0; rank < bytes.size(); ++rank) {
      std::copy_n(parts.data() + begins[rank] + i * row_bytes[rank], row_bytes[rank], to);
      to += row_bytes[rank];
    }
  return all;
}

}  // namespace

Tensor forward_together(Job& job, const TransformerTemporalModel& model, const TensorView& hidden_states,
                        ForwardOptions options) {
  const TransformerTemporalConfig& config = model.config();
  const bool discrete = config.is_discrete();
  const std::int64_t side = discrete ? *config.sample_size : 0;
  // A shape without rows is refused by the model, in its words, on every rank.
  if (hidden_states.rank() != (discrete ? 2u : 4u) || (discrete && hidden_states.size(1) != side * side) ||
      hidden_states.size(0) % options.num_frames != 0)
    return model.forward(hidden_states, options).sample;
  const std::int64_t height = discrete ? side : hidden_states.size(2), width = discrete ? side : hidden_states.size(3);
  const Share rows = share_of(height, job.ranks().rank(), job.ranks().size());
  options.communicator = &job.ranks();
  options.first_image_row = rows.first;
  options.total_image_rows = height;
  const TensorView encoder = options.encoder_hidden_states;
  const std::int64_t videos = hidden_states.size(0) / options.num_frames;
  Tensor pixels;
  if (encoder && encoder.rank() == 3 && encoder.size(0) != videos && encoder.size(0) == videos * height * width)
    options.encoder_hidden_states = pixels = pixels_of(encoder, videos, {rows.first * width, rows.count * width});
  const std::int64_t each = discrete ? width : 1;
  const TensorView own = slice(hidden_states, discrete ? 1 : 2, rows.first * each, rows.count * each);
  return join(job, model.forward(own, options).sample, height, width);
}

}  // namespace kineograph::cli

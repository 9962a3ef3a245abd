// Clips in and samples out, by file kind.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "kineograph/tensor.h"
#include "video/y4m.h"

namespace kineograph::video {

enum class ClipKind { safetensors, npy, y4m };
/// By extension; "-" is y4m. Nothing for others.
std::optional<ClipKind> kind_of(const std::filesystem::path& path);

/// Arguments of forward, as far as the input holds them. `owner` keeps the views' memory.
struct Clip {
  TensorView hidden_states, encoder_hidden_states, timestep, class_labels;
  /// Of Transformer2DModel and TransformerSpatioTemporalModel.
  TensorView attention_mask, encoder_attention_mask, image_only_indicator;
  /// F where the source decides it (the frames of a window of video); 0 where it does not.
  std::int64_t num_frames = 0;
  std::shared_ptr<const void> owner;
};

/// An input, read piece by piece.
class ClipSource {
 public:
  virtual ~ClipSource() = default;
  /// The next piece, or nothing at the end. Throws IoError or FormatError.
  virtual std::optional<Clip> next() = 0;
  /// The header, if this is a video.
  virtual const Y4mHeader* video() const { return nullptr; }
  /// Frames in all, if that is known before they are read.
  virtual std::optional<std::int64_t> total_frames() const { return {}; }
};

/// A .y4m file, or "-" for a pipe on stdin, and its reader.
class VideoFile {
 public:
  /// Reads the header. Throws IoError or FormatError.
  explicit VideoFile(const std::filesystem::path& path);
  Y4mReader& reader() noexcept { return reader_; }
  const Y4mHeader& header() const noexcept { return reader_.header(); }
  /// From the file's size, for progress; nothing for a pipe.
  std::optional<std::int64_t> total_frames() const noexcept { return total_frames_; }

 private:
  std::ifstream file_;
  Y4mReader reader_;
  std::optional<std::int64_t> total_frames_;
};

/// Opens `path` by kind. .safetensors: tensors hidden_states and, where present, encoder_hidden_states, timestep and
/// class_labels, in one piece; other names are an error. .npy: hidden_states. .y4m: windows of `window` frames as
/// latents (F, 3 patch^2, H, W) in f32; the last one may be shorter. Memory for a video is one window.
std::unique_ptr<ClipSource> open_clip(const std::filesystem::path& path, std::int64_t window, std::int64_t patch);

/// One tensor of an .npy file, or of a .safetensors file where it is called `name` or is alone. `owner` is set.
TensorView read_tensor(const std::filesystem::path& path, const std::string& name, std::shared_ptr<const void>& owner);

/// An output, written piece by piece; nothing takes its name before finish().
class SampleSink {
 public:
  virtual ~SampleSink() = default;
  /// (rows, C, H, W) as forward returns it.
  virtual void append(Tensor sample) = 0;
  virtual void finish() = 0;
};

/// Opens `path` by kind. .safetensors: one tensor `sample`; .npy: the array; both join the pieces in memory. .y4m:
/// frames as they come; `video` is the header to write, and without one it follows the first sample's shape at 25
/// frames a second in C444.
std::unique_ptr<SampleSink> open_sample(const std::filesystem::path& path, const Y4mHeader* video, std::int64_t patch);

}  // namespace kineograph::video

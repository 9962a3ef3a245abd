#include "video/clip_io.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <system_error>
#include <utility>
#include <vector>

#include "kineograph/checkpoint.h"
#include "kineograph/error.h"
#include "video/latents.h"
#include "video/npy.h"
#include "video/output_file.h"

namespace kineograph::video {
namespace {

std::ifstream open_input(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (in && std::filesystem::is_directory(path)) errno = EISDIR;
  if (!in || errno == EISDIR)
    throw IoError(path.string(), "a file that can be read", std::error_code(errno, std::generic_category()));
  return in;
}

TensorView keep(Tensor tensor, std::shared_ptr<const void>& owner) {
  auto kept = std::make_shared<const Tensor>(std::move(tensor));
  owner = kept;
  return kept->view();
}

// forward takes f32, f16 and bf16; NumPy's own default is f64.
Tensor read_array(const std::filesystem::path& path) {
  std::ifstream in = open_input(path);
  Tensor array = read_npy(in, path.string());
  return array.dtype() == DType::f64 ? convert(array, DType::f32) : std::move(array);
}

// A whole clip in memory, given once.
class TensorSource : public ClipSource {
 public:
  explicit TensorSource(Clip clip) : clip_(std::move(clip)) {}
  std::optional<Clip> next() override { return std::exchange(clip_, std::nullopt); }

 private:
  std::optional<Clip> clip_;
};

Clip read_safetensors(const std::filesystem::path& path) {
  const Checkpoint file = Checkpoint::open(path);
  Clip clip;
  clip.owner = file.owner();
  const std::pair<std::string_view, TensorView*> places[] = {{"hidden_states", &clip.hidden_states},
                                                             {"encoder_hidden_states", &clip.encoder_hidden_states},
                                                             {"timestep", &clip.timestep},
                                                             {"class_labels", &clip.class_labels},
                                                             {"attention_mask", &clip.attention_mask},
                                                             {"encoder_attention_mask", &clip.encoder_attention_mask},
                                                             {"image_only_indicator", &clip.image_only_indicator}};
  for (const auto& [name, view] : file.tensors()) {
    const auto place =
        std::find_if(std::begin(places), std::end(places), [&name = name](const auto& p) { return p.first == name; });
    if (place == std::end(places)) {
      std::string known;
      for (const auto& [argument, slot] : places) known += (known.empty() ? "" : ", ") + std::string(argument);
      throw FormatError(path.string(), "tensors of the names " + known, "\"" + name + "\"",
                        "A misspelt name would otherwise change the result silently.");
    }
    *place->second = view;
  }
  if (!clip.hidden_states) throw FormatError(path.string(), "a tensor hidden_states", "none");
  return clip;
}

class VideoSource : public ClipSource {
 public:
  VideoSource(const std::filesystem::path& path, std::int64_t window, std::int64_t patch)
      : file_(path), window_(window), patch_(patch) {}

  std::optional<Clip> next() override {
    const Y4mHeader& header = file_.header();
    const auto [channels, height, width] = latent_extents(header, patch_);
    const std::int64_t frame_values = channels * height * width;
    std::vector<std::uint8_t> frame;
    Tensor latents;
    std::int64_t frames = 0;
    // The window is allocated once a whole frame has been read: a header alone may claim any size.
    for (; frames < window_ && file_.reader().next(frame); ++frames) {
      if (frames == 0) latents = Tensor(DType::f32, {window_, channels, height, width});
      frame_to_latents(frame, header, patch_, latents.data_as<float>() + frames * frame_values);
    }
    if (frames == 0) return {};
    Clip clip;
    clip.hidden_states = {keep(std::move(latents), clip.owner).data(), DType::f32, {frames, channels, height, width}};
    clip.num_frames = frames;
    return clip;
  }

  const Y4mHeader* video() const override { return &file_.header(); }
  std::optional<std::int64_t> total_frames() const override { return file_.total_frames(); }

 private:
  VideoFile file_;
  std::int64_t window_, patch_;
};

// Pieces joined along the first axis.
class TensorSink : public SampleSink {
 public:
  TensorSink(std::filesystem::path path, ClipKind kind) : path_(std::move(path)), kind_(kind) {
    // An output that cannot be written should say so before the work, not after it.
    if (kind == ClipKind::npy)
      file_.emplace(path_);
    else
      OutputFile probe(path_);
  }

  void append(Tensor sample) override { pieces_.push_back(std::move(sample)); }

  void finish() override {
    const Tensor whole = join();
    if (kind_ == ClipKind::safetensors) {
      save_safetensors(path_, {{"sample", whole.view()}});
      return;
    }
    write_npy(file_->stream(), whole);
    file_->commit();
  }

 private:
  Tensor join() {
    if (pieces_.size() == 1) return std::move(pieces_.front());
    if (pieces_.empty()) return Tensor(DType::f32, {0, 0, 0, 0});
    Shape shape = pieces_.front().shape();
    for (std::size_t i = 1; i < pieces_.size(); ++i) shape[0] += pieces_[i].shape()[0];
    Tensor whole(pieces_.front().dtype(), shape);
    auto* to = static_cast<std::byte*>(whole.data());
    for (Tensor& piece : pieces_) {
      std::memcpy(to, piece.data(), piece.bytes());
      to += piece.bytes();
      piece = Tensor();
    }
    return whole;
  }

  std::filesystem::path path_;
  ClipKind kind_;
  std::optional<OutputFile> file_;
  std::vector<Tensor> pieces_;
};

class VideoSink : public SampleSink {
 public:
  VideoSink(const std::filesystem::path& path, const Y4mHeader* header, std::int64_t patch)
      : file_(path), patch_(patch) {
    if (header) begin(*header);
  }

  void append(Tensor sample) override {
    const Shape& shape = sample.shape();
    if (shape.size() != 4 || shape[1] != 3 * patch_ * patch_)
      throw ArgumentError("sample as video",
                          "(frames, 3 x patch x patch = " + std::to_string(3 * patch_ * patch_) + ", height, width)",
                          to_string(shape), "Give --patch, or write .safetensors or .npy.");
    if (!header_) {
      Y4mHeader header;
      header.height = shape[2] * patch_;
      header.width = shape[3] * patch_;
      header.chroma = Chroma::c444;
      begin(header);
    }
    const Tensor values = convert(sample, DType::f32);
    std::vector<std::uint8_t> frame(static_cast<std::size_t>(header_->frame_bytes()));
    for (std::int64_t i = 0; i < shape[0]; ++i) {
      latents_to_frame(values.data_as<float>() + i * (values.numel() / shape[0]), *header_, patch_, frame);
      write_y4m_frame(file_.stream(), frame);
    }
    // Frames already shown should leave: the reader of a pipe may be waiting for them.
    file_.stream().flush();
    file_.check();
  }

  void finish() override { file_.commit(); }

 private:
  void begin(const Y4mHeader& header) {
    header_ = header;
    write_y4m_header(file_.stream(), header);
    file_.check();
  }

  OutputFile file_;
  std::int64_t patch_;
  std::optional<Y4mHeader> header_;
};

}  // namespace

std::optional<ClipKind> kind_of(const std::filesystem::path& path) {
  if (path == "-" || path.extension() == ".y4m") return ClipKind::y4m;
  if (path.extension() == ".npy") return ClipKind::npy;
  if (path.extension() == ".safetensors") return ClipKind::safetensors;
  return {};
}

VideoFile::VideoFile(const std::filesystem::path& path)
    : file_(path == "-" ? std::ifstream() : open_input(path)),
      reader_(path == "-" ? std::cin : file_, path == "-" ? "stdin" : path.string()) {
  std::error_code unknown;
  const auto size = path == "-" ? 0 : std::filesystem::file_size(path, unknown);
  // "FRAME\n" before each; the header and frame parameters are too small to matter for a progress bar.
  if (size != 0 && !unknown) total_frames_ = static_cast<std::int64_t>(size) / (header().frame_bytes() + 6);
}

std::unique_ptr<ClipSource> open_clip(const std::filesystem::path& path, std::int64_t window, std::int64_t patch) {
  switch (kind_of(path).value()) {
    case ClipKind::safetensors:
      return std::make_unique<TensorSource>(read_safetensors(path));
    case ClipKind::npy: {
      Clip clip;
      clip.hidden_states = keep(read_array(path), clip.owner);
      return std::make_unique<TensorSource>(std::move(clip));
    }
    case ClipKind::y4m:
      break;
  }
  return std::make_unique<VideoSource>(path, window, patch);
}

TensorView read_tensor(const std::filesystem::path& path, const std::string& name, std::shared_ptr<const void>& owner) {
  if (kind_of(path) == ClipKind::npy) return keep(read_array(path), owner);
  const Checkpoint file = Checkpoint::open(path);
  owner = file.owner();
  if (TensorView named = file.find(name)) return named;
  if (file.tensors().size() == 1) return file.tensors().front().second;
  throw FormatError(path.string(), "a tensor " + name + ", or one alone", std::to_string(file.tensors().size()));
}

std::unique_ptr<SampleSink> open_sample(const std::filesystem::path& path, const Y4mHeader* video, std::int64_t patch) {
  const ClipKind kind = kind_of(path).value();
  if (kind == ClipKind::y4m) return std::make_unique<VideoSink>(path, video, patch);
  return std::make_unique<TensorSink>(path, kind);
}

}  // namespace kineograph::video

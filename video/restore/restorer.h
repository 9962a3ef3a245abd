// Restores a clip of any length in constant memory: overlapping windows in time, shifted grids of patches in space.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "kineograph/model.h"
#include "video/latents.h"
#include "video/restore/damage_estimate.h"
#include "video/restore/restoration.h"
#include "video/scenes.h"
#include "video/y4m.h"

namespace kineograph::video {

struct RestoreOptions {
  std::int64_t window = 12;  ///< frames that the model sees at once
  std::int64_t shifts = 16;  ///< grids of patches that are averaged, shared among windows that overlap
  /// Deviation of the noise in levels of 0..255; absent: estimated.
  std::optional<double> sigma = {};
  std::optional<Damage> damage = {};  ///< absent: estimated
  int threads = 0;
  /// Noise has no low frequencies and flicker no others: puts back what else the model changed (see
  /// low_frequencies.h). Models that predict the picture itself are left alone.
  bool correct_frequencies = true;
};

/// Takes frames, gives as many, in order. Windows begin every three quarters of a window and fade into each other; two
/// that overlap see a frame through grids of their own. The last one of a scene ends with it. Memory is a window and
/// three quarters.
class Restorer {
 public:
  /// Throws ConfigError for a model that does not restore video, ArgumentError for options that do not fit it.
  Restorer(TransformerTemporalModel model, const Y4mHeader& header, const RestoreOptions& options);

  /// Takes a frame's planes.
  void push(std::span<const std::uint8_t> frame);
  /// No more frames will come, or none of this scene.
  void finish();
  /// Gives the next restored frame's planes; false while it needs frames that have not come, and at the end.
  bool pop(std::vector<std::uint8_t>& frame);

  /// Estimates for the last window: deviation of the noise in levels of 0..255, and the damage.
  double sigma() const noexcept { return sigma_; }
  Damage damage() const noexcept { return damage_; }

 private:
  struct Frame {
    std::vector<std::uint8_t> planes;  // as they came; restored once the frame is complete
    Moments moments;
    std::vector<float> sum;  // of what windows made of it; divided by `weight` it is the restored frame
    float weight = 0;
    // Of the last window: what was taken out of scale * colour + offset, and the noise's deviation there.
    Damage damage = Damage::noise;
    float scale = 1, offset = 0, noise = 0;
  };
  struct Shift {
    std::int64_t y, x;  // how far the grid begins above and left of the frame
    PatchGrid grid;
    std::vector<float> weights;  // of a patch's pixels; those of a window's shifts sum to 1 at every pixel of a frame
  };

  // Grids at some offsets, from the `begin`th to before the `end`th of all.
  std::vector<Shift> make_shifts(std::int64_t begin, std::int64_t end) const;
  // Looks at the frames [begin, end) of the clip: their moments, and what they say of its damage.
  void judge(std::int64_t begin, std::int64_t end);
  // Restores the frames [start, start + count) and adds them up.
  void restore_window(std::int64_t start, std::int64_t count);
  // No further window will change the frames before `end`: makes planes of them.
  void complete(std::int64_t end);
  // Runs one grid over a window and adds what it makes of it.
  void add_shift(const Shift& shift, std::int64_t start, std::int64_t count, const Normalisation& normalisation,
                 const ForwardOptions& forward);
  // Puts right what the model, which sees patches, cannot know of a whole frame.
  void correct(Frame& frame) const;
  // Adds what samples are subtracted from where they predict the noise: once, since the grids' weights sum to 1.
  void add_input(std::int64_t start, std::int64_t count);
  std::vector<float> colours_of(std::span<const std::uint8_t> planes) const;
  Frame& frame(std::int64_t number) { return frames_[static_cast<std::size_t>(number - first_)]; }

  TransformerTemporalModel model_;
  Y4mHeader header_;
  RestoreOptions options_;
  std::int64_t patch_;
  std::vector<std::vector<Shift>> shifts_;  // of every window in turn
  std::deque<Frame> frames_;
  std::int64_t first_ = 0;            // the number of frames_.front() in the clip
  std::int64_t scene_ = 0;            // of the first frame of the scene
  std::int64_t next_window_ = 0;      // where the next whole window begins
  std::int64_t restored_ = 0;         // frames that windows have reached so far
  std::int64_t complete_ = 0;         // frames whose planes are restored
  std::size_t windows_ = 0;           // that were restored
  std::vector<std::uint8_t> before_;  // the planes, as they came, of the frame before the first that is not judged
  Thumbnail seen_;                    // of the last frame
  Tensor latents_;
  DamageEstimate estimate_;
  LevelEstimate level_;
  double sigma_ = 0;
  Damage damage_ = Damage::noise;
};

}  // namespace kineograph::video

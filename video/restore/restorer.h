// Restores a clip of any length in constant memory: overlapping windows in time, shifted grids of patches in space.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "kineograph/model.h"
#include "video/latents.h"
#include "video/restore/restoration.h"
#include "video/restore/steady.h"
#include "video/restore/survey.h"
#include "video/y4m.h"

namespace kineograph::video {

struct RestoreOptions {
  std::int64_t window = 12;  ///< frames that the model sees at once
  std::int64_t shifts = 16;  ///< grids of patches that are averaged, shared among windows that overlap
  /// Deviation of the noise in levels of 0..255; absent: estimated.
  std::optional<double> sigma = {};
  std::optional<Damage> damage = {};  ///< absent: estimated
  int threads = 0;
  /// Puts right what the model, which sees patches, cannot know: low frequencies (see low_frequencies.h; models that
  /// predict the picture itself are left alone), and what it took out beyond the noise (see give_back.h).
  bool corrections = true;
  /// As SurveyOptions has them: a film's judgements made before, and where in the film this restorer begins.
  const Judgements* judgements = nullptr;
  std::int64_t first = 0, scene = 0;
};

/// Frames that one judgement brought into play: [first, first + count).
struct Finding {
  std::int64_t first, count;
  Judgement judgement;
};

/// Takes frames, gives as many, in order. Windows begin every three quarters of a window and fade into each other; two
/// that overlap see a frame through grids of their own, and a scene begins with the same ones. Frames of windows in
/// which nothing is wrong are copied. Memory is two windows and the frames that corrections look back and ahead on.
class Restorer {
 public:
  /// Throws ConfigError for a model that does not restore video, ArgumentError for options that do not fit it.
  Restorer(TransformerTemporalModel model, const Y4mHeader& header, const RestoreOptions& options);

  /// Takes a frame's planes.
  void push(std::span<const std::uint8_t> frame);
  /// No more frames will come.
  void finish();
  /// Gives the next restored frame's planes; false while it needs frames that have not come, and at the end.
  bool pop(std::vector<std::uint8_t>& frame);

  /// Has `watcher` called now and then with the frames that the work done so far amounts to, from the thread that calls
  /// push() and finish().
  void on_progress(std::function<void(double)> watcher) { on_progress_ = std::move(watcher); }
  /// What was taken for true so far.
  const std::vector<Finding>& findings() const noexcept { return findings_; }

 private:
  struct Frame {
    std::vector<std::uint8_t> planes, restored;
    std::vector<float> sum;  // of what windows made of it; divided by `weight` it is the restored frame
    float weight = 0;
    float copied = 0;  // the weight of windows that found nothing wrong
    // Of the last window: what was taken out of scale * colour + offset, and the noise's deviation there.
    Damage damage = Damage::noise;
    float scale = 1, offset = 0, noise = 0;
    bool white = false;  // the noise is
    // Of the complete frame.
    Bands bands;  // instead of `sum`, until its own are steadied
    std::vector<float> energy;
  };
  struct Shift {
    std::int64_t y, x;  // how far the grid begins above and left of the frame
    PatchGrid grid;
    std::vector<float> weights;  // of a patch's pixels; those of a window's shifts sum to 1 at every pixel of a frame
  };
  // A window, its judgement, and what follows from both.
  struct Task {
    Window window;
    Judgement judgement;
    Damage damage = Damage::noise;
    std::vector<Moments> frames, levels;  // what each frame is normalised by, and what its sample becomes colours by
    bool noise = false;                   // that the sample is
  };

  // Grids at some offsets, from the `begin`th to before the `end`th of all.
  std::vector<Shift> make_shifts(std::int64_t begin, std::int64_t end) const;
  void take(const std::vector<Step>& steps);
  // Restores a window's frames and adds them up.
  void restore(const Window& window, const Judgement& judgement);
  void copy(const Window& window);
  Task task_of(const Window& window, const Judgement& judgement);
  // Runs one grid over a window and adds what it makes of it.
  void add_shift(const Shift& shift, const Task& task, const ForwardOptions& forward);
  // Adds what samples are subtracted from where they predict the noise: once, since the grids' weights sum to 1.
  void add_input(const Window& window);
  // No further window will change the frames before `end`: what each can do by itself.
  void complete(std::int64_t end);
  void complete(Frame& frame) const;
  // Steadies the complete frames before `end` by those around them, and gives back what was no noise.
  void correct(std::int64_t end);
  void correct_frame(std::int64_t number);
  // Refines the corrected frames before `end` by those around them, and makes planes of them.
  void finish(std::int64_t end);
  void finish_frame(std::int64_t number);
  std::vector<float> refined_frame(std::int64_t number);
  std::vector<float> colours_of(std::span<const std::uint8_t> planes) const;
  // As the model was to see it: flicker taken out.
  std::vector<float> input_of(const Frame& frame) const;
  Frame& frame(std::int64_t number) { return frames_[static_cast<std::size_t>(number - first_)]; }

  TransformerTemporalModel model_;
  Y4mHeader header_;
  RestoreOptions options_;
  std::int64_t patch_;
  std::vector<std::vector<Shift>> shifts_;  // of every window in turn
  Survey survey_;
  std::deque<Frame> frames_;
  std::int64_t first_;          // the number of frames_.front() in the clip
  std::int64_t scene_;          // of the first frame of the scene
  std::int64_t complete_ = 0;   // frames that no window will change
  std::int64_t corrected_ = 0;  // of these, frames that are corrected
  std::int64_t finished_ = 0;   // of these, frames whose planes are restored
  std::int64_t given_ = 0;      // frames that pop() gave
  double done_ = 0;             // frames' worth of work
  std::function<void(double)> on_progress_;
  std::vector<Finding> findings_;
  Tensor latents_;
};

/// The frame from which on a restorer has to take frames (RestoreOptions::first) in order to give those from `begin` on
/// as one that took all of their scene would. A window begins there.
std::int64_t first_frame(std::int64_t begin, std::int64_t scene, std::int64_t window);

}  // namespace kineograph::video

// The first pass over a clip: where its scenes end, which windows it is restored in, and what is wrong with each.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "video/restore/damage_estimate.h"
#include "video/scenes.h"
#include "video/y4m.h"

namespace kineograph::video {

/// Frames that a model sees at once: [start, start + count) of the clip.
struct Window {
  std::int64_t start = 0, count = 0;
  std::int64_t fresh = 0;   ///< the first frame that no earlier window had
  std::int64_t number = 0;  ///< in its scene
};

/// What is due once a frame has come, or the last one of a scene.
struct Step {
  std::optional<Window> window;  ///< absent where every frame of a scene that ends has been in one
  Judgement judgement;           ///< of the window
  std::int64_t complete = 0;     ///< no later window has frames before this one
  bool ends_scene = false;
};

/// The judgements of a clip's windows, by their first frames.
using Judgements = std::map<std::int64_t, Judgement>;

struct SurveyOptions {
  std::int64_t window = 12;           ///< frames
  std::optional<double> sigma = {};   ///< of the noise, in the units of colours; absent: estimated
  std::optional<Damage> damage = {};  ///< absent: estimated
  int threads = 0;
  /// Given, windows are not judged but looked up here. It must outlive the survey.
  const Judgements* judgements = nullptr;
  /// The number of the first frame that will come, where a window of its scene begins, and of that scene's first.
  std::int64_t first = 0, scene = 0;
};

/// How far a window begins after the one before it: a quarter of it is enough to fade over, and what overlaps is better
/// spent on grids.
std::int64_t stride_of(std::int64_t window);

/// Takes a clip's frames and says step by step what there is to do. Windows begin every stride_of() frames of a scene;
/// the last one ends with it. A judgement depends on the frames of its scene up to its window's end, on nothing else.
class Survey {
 public:
  Survey(const Y4mHeader& header, const SurveyOptions& options);

  /// Takes a frame's planes.
  std::vector<Step> push(std::span<const std::uint8_t> frame);
  /// No more frames will come.
  std::vector<Step> finish();

 private:
  Step step(const Window& window, std::int64_t complete);
  Judgement judge(const Window& window);

  Y4mHeader header_;
  SurveyOptions options_;
  std::int64_t scene_, next_, number_, total_;    // next_: where the next whole window begins; total_: frames so far
  std::int64_t reached_;                          // frames that windows have had
  Thumbnail seen_;                                // of the last frame
  std::deque<std::vector<std::uint8_t>> unread_;  // the planes of frames that no window has had
  std::vector<std::uint8_t> before_;              // those of the frame before them, of the same scene
  std::deque<FrameReading> readings_;             // of the last `window` frames
  Judge judge_;
};

}  // namespace kineograph::video

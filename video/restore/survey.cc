#include "video/restore/survey.h"

#include <algorithm>
#include <string>

#include "base/threads.h"
#include "kineograph/error.h"
#include "video/latents.h"

namespace kineograph::video {

std::int64_t stride_of(std::int64_t window) { return std::max<std::int64_t>(1, window * 3 / 4); }

Survey::Survey(const Y4mHeader& header, const SurveyOptions& options)
    : header_(header),
      options_(options),
      scene_(options.scene),
      next_(options.first),
      number_((options.first - options.scene) / stride_of(options.window)),
      total_(options.first),
      reached_(options.first),
      judge_(options.sigma, options.damage) {}

std::vector<Step> Survey::push(std::span<const std::uint8_t> frame) {
  std::vector<Step> steps;
  Thumbnail seen = thumbnail_of(frame, header_);
  if (is_cut(seen_, seen)) steps = finish();
  seen_ = std::move(seen);
  if (options_.judgements == nullptr) unread_.emplace_back(frame.begin(), frame.end());
  ++total_;
  if (total_ < next_ + options_.window) return steps;
  const Window window{next_, options_.window, std::max(reached_, next_), number_};
  // A scene that ends before the next window is whole has its last one begin earlier than that, but later than this.
  steps.push_back(step(window, next_ + 1));
  next_ += stride_of(options_.window);
  ++number_;
  return steps;
}

std::vector<Step> Survey::finish() {
  std::vector<Step> steps;
  if (reached_ < total_) {
    const std::int64_t start = std::max(scene_, total_ - options_.window);
    steps.push_back(step({start, total_ - start, std::max(reached_, start), number_}, total_));
  } else if (total_ > scene_) {
    steps.push_back({{}, {}, total_, true});
  }
  if (!steps.empty()) steps.back().ends_scene = true;
  scene_ = next_ = reached_ = total_;
  number_ = 0;
  before_.clear();
  readings_.clear();
  judge_.begin_scene();
  return steps;
}

Step Survey::step(const Window& window, std::int64_t complete) {
  Step step{window, {}, complete, false};
  if (options_.judgements == nullptr) {
    step.judgement = judge(window);
  } else {
    const auto found = options_.judgements->find(window.start);
    if (found == options_.judgements->end())
      throw FormatError("plan", "a judgement of the window that begins at frame " + std::to_string(window.start),
                        "none", "Is it the plan of this film?");
    step.judgement = found->second;
  }
  reached_ = window.start + window.count;
  return step;
}

Judgement Survey::judge(const Window& window) {
  const auto fresh = static_cast<std::int64_t>(unread_.size());
  std::vector<FrameReading> readings(unread_.size());
  const auto colours_of = [this](const std::vector<std::uint8_t>& planes) {
    std::vector<float> rgb;
    if (planes.empty()) return rgb;
    rgb.resize(static_cast<std::size_t>(3 * header_.width * header_.height));
    frame_to_rgb(planes, header_, rgb.data());
    return rgb;
  };
  parallel_for(fresh, thread_count(options_.threads), [&](std::int64_t f) {
    const auto i = static_cast<std::size_t>(f);
    readings[i] = read_frame(colours_of(unread_[i]), colours_of(f == 0 ? before_ : unread_[i - 1]), header_.height,
                             header_.width);
  });
  before_ = std::move(unread_.back());
  unread_.clear();
  for (FrameReading& reading : readings) readings_.push_back(std::move(reading));
  while (static_cast<std::int64_t>(readings_.size()) > window.count) readings_.pop_front();
  const std::vector<FrameReading> all(readings_.begin(), readings_.end());
  return judge_.judge(all, readings.size());
}

}  // namespace kineograph::video

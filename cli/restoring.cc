#include "restoring.h"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <utility>

#include "clips.h"
#include "commands.h"
#include "messages.h"
#include "models.h"
#include "progress.h"

namespace kineograph::cli {

using namespace video;

namespace {

volatile std::sig_atomic_t received_signal = 0;
void (*last_resorts[64])(int) = {};  // what a signal did before: removes unfinished files

extern "C" void ask_for_end(int signal) {
  received_signal = signal;
  std::signal(signal, last_resorts[signal]);
}

std::optional<double> parse_strength(const std::string& text) {
  if (text == "auto") return {};
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= 255))
    throw CLI::ValidationError("--strength", "expected auto or a deviation from 0 to 255, found " + text);
  return value;
}

// The bar of work that is done in parts of a frame.
class FrameProgress {
 public:
  explicit FrameProgress(std::optional<std::int64_t> total) : bar_(total) {}
  void at(double done) {
    const auto frames = static_cast<std::int64_t>(done + 1e-6);
    bar_.advance(frames - std::exchange(shown_, frames));
  }

 private:
  Progress bar_;
  std::int64_t shown_ = 0;
};

std::string words_of(const Judgement& judgement, double sigma) {
  const auto noise = [&] {
    std::string words = "noise of " + with_decimals(sigma, 1) + " of 255 levels";
    // Film grain reads 5 times as much at the coarsest scale, what x264 leaves of white noise 1.5 times.
    if (judgement.coarseness >= kAlike)
      words += " that neighbouring pixels share (film grain, demosaicking, compression)";
    return words;
  };
  if (!judgement.damage) return "no noise found: frames copied";
  switch (*judgement.damage) {
    case Damage::noise:
      return noise() + " taken out";
    case Damage::flicker:
      return "flicker taken out";
    case Damage::both:
      break;
  }
  return "flicker and " + noise() + " taken out";
}

}  // namespace

TransformerTemporalModel open_model(const RestoreArguments& arguments) {
  if (!arguments.model.empty()) check_model_path(arguments.model);
  return TransformerTemporalModel::from_pretrained(
      arguments.model.empty() ? shipped_model("restore") : std::filesystem::path(arguments.model),
      arguments.engine.model_options());
}

RestoreOptions options_of(const RestoreArguments& arguments, const TransformerTemporalModel& model) {
  RestoreOptions options;
  options.sigma = parse_strength(arguments.strength);
  options.damage = damage_of(arguments.damage);
  options.shifts = arguments.shifts;
  options.threads = arguments.engine.threads;
  options.window = arguments.window != 0 ? arguments.window : default_window(model.config());
  return options;
}

int asked_to_end() { return received_signal; }

void watch_for_signals() {
  for (const int signal : {SIGINT, SIGTERM}) {
    const auto before = std::signal(signal, ask_for_end);
    // A signal that is ignored stays so.
    if (before == SIG_IGN)
      std::signal(signal, SIG_IGN);
    else if (before != ask_for_end)
      last_resorts[signal] = before;
  }
}

void restore_frames(FilmSource& source, Restorer& restorer, std::optional<std::int64_t> most,
                    const FrameWatcher& watcher) {
  std::optional<std::int64_t> total = source.total();
  if (most) total = total ? std::min(*total, *most) : *most;
  FrameProgress progress(total);
  restorer.on_progress([&progress](double done) { progress.at(done); });
  std::vector<std::uint8_t> frame;
  bool wanted = true;
  const auto drain = [&] {
    bool some = false;
    while (wanted && restorer.pop(frame)) {
      wanted = watcher.restored(frame);
      some = true;
    }
    if (some && watcher.window_done) watcher.window_done();
  };
  for (std::int64_t f = 0; wanted && asked_to_end() == 0 && (!most || f < *most) && source.next(frame); ++f) {
    if (watcher.given) watcher.given(frame);
    restorer.push(frame);
    drain();
  }
  if (wanted) {
    restorer.finish();
    drain();
  }
  restorer.on_progress({});
}

std::string in_words(const std::vector<Finding>& findings) {
  // Windows that follow each other and were taken for the same are one part, of the mean noise.
  struct Part {
    std::int64_t first, last;
    Judgement judgement;
    double sigmas;
    int windows;
  };
  std::vector<Part> parts;
  for (const Finding& finding : findings) {
    const Judgement& judgement = finding.judgement;
    const double sigma = judgement.sigma / kLevel;
    if (!parts.empty() && parts.back().judgement.damage == judgement.damage) {
      Part& part = parts.back();
      part.last = finding.first + finding.count - 1;
      part.sigmas += sigma;
      ++part.windows;
      part.judgement.coarseness += (judgement.coarseness - part.judgement.coarseness) / part.windows;
    } else {
      parts.push_back({finding.first, finding.first + finding.count - 1, judgement, sigma, 1});
    }
  }
  if (parts.empty()) return "no frames";
  if (parts.size() == 1) return words_of(parts[0].judgement, parts[0].sigmas / parts[0].windows);
  std::string words;
  for (const Part& part : parts)
    words += (words.empty() ? "" : "\n  ") + std::string("frames ") + std::to_string(part.first) + " to " +
             std::to_string(part.last) + ": " + words_of(part.judgement, part.sigmas / part.windows);
  return words;
}

}  // namespace kineograph::cli

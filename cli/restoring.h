// The pieces that both ways of `kineograph restore` share: a film at once, and in segments.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kineograph/model.h"
#include "options.h"
#include "video/film_io.h"
#include "video/restore/restorer.h"

namespace kineograph::cli {

struct RestoreArguments {
  std::string model, input = "-", output = "-", strength = "auto", damage = "auto";
  std::int64_t window = 0, shifts = 16;
  EngineArguments engine;
  // Of a film at once.
  std::int64_t start = 0, frames = 0;  // 0 frames: all
  bool compare = false, json = false;
  // Of a film in segments.
  std::string plan, join;
  std::int64_t segment = -1, segment_frames = 240;
  bool list = false;
};

/// The model that the arguments name, opened with their engine, instruction set and dtype.
TransformerTemporalModel open_model(const RestoreArguments& arguments);
/// The options of restoring with that model, from the arguments.
video::RestoreOptions options_of(const RestoreArguments& arguments, const TransformerTemporalModel& model);

/// 0, or the signal (SIGINT, SIGTERM) that has asked for an end since watch_for_signals(). A second one ends at once.
int asked_to_end();
void watch_for_signals();

/// Frames as they go in and as they come out restored. `restored` says whether more of them are wanted.
struct FrameWatcher {
  std::function<void(std::span<const std::uint8_t>)> given = {};
  std::function<bool(std::span<const std::uint8_t>)> restored = {};
  std::function<void()> window_done = {};  ///< after every frame that made some come out
};

/// Restores the source's frames, `most` at most where that is given, until it ends, nobody wants more or somebody asks
/// for an end; shows progress on a terminal.
void restore_frames(video::FilmSource& source, video::Restorer& restorer, std::optional<std::int64_t> most,
                    const FrameWatcher& watcher);

/// "noise of 24.9 levels taken out", "nothing found: frames copied", or a line for every part of a film that differs.
std::string in_words(const std::vector<video::Finding>& findings);

/// The commands of a film in segments: --plan by itself, with --segment, with --join, and --list.
void restore_in_segments(const RestoreArguments& arguments);

}  // namespace kineograph::cli

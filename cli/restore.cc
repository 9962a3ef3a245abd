// kineograph restore: takes noise and flicker out of a video.
#include <chrono>
#include <deque>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "clips.h"
#include "commands.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "options.h"
#include "restoring.h"
#include "video/film_io.h"
#include "video/restore/restorer.h"

namespace kineograph::cli {

using namespace video;

namespace {

void check_paths(const RestoreArguments& arguments) {
  if (!is_film(arguments.output))
    throw CLI::ValidationError(
        "--output", "expected .y4m, .mp4, .m4v, .mov, .mkv, .webm or - (a pipe of .y4m), found " + arguments.output);
  refuse_terminal("--input", arguments.input);
  refuse_terminal("--output", arguments.output);
  std::error_code ignored;
  if (arguments.input != "-" && std::filesystem::is_regular_file(arguments.output, ignored) &&
      std::filesystem::equivalent(arguments.input, arguments.output, ignored))
    throw CLI::ValidationError("--output", "expected another file than the input, found " + arguments.output);
}

EncodeOptions encode_options(const RestoreArguments& arguments, const FilmSource& source) {
  EncodeOptions options;
  if (source.info() == nullptr) return options;
  options.source = arguments.input;
  options.colours = *source.info();
  options.source_start = static_cast<double>(arguments.start) / source.info()->frames_per_second();
  options.only_as_long = arguments.frames != 0;
  return options;
}

// Two frames side by side, plane by plane.
std::vector<std::uint8_t> beside(const Y4mHeader& header, const Y4mHeader& both, std::span<const std::uint8_t> left,
                                 std::span<const std::uint8_t> right) {
  std::vector<std::uint8_t> frame;
  frame.reserve(static_cast<std::size_t>(both.frame_bytes()));
  auto from_left = left.begin(), from_right = right.begin();
  const auto plane = [&](std::int64_t width, std::int64_t height, std::int64_t wanted) {
    const std::int64_t bytes = width * header.sample_bytes(), second = (wanted - width) * header.sample_bytes();
    for (std::int64_t y = 0; y < height; ++y, from_left += bytes, from_right += bytes) {
      frame.insert(frame.end(), from_left, from_left + bytes);
      frame.insert(frame.end(), from_right, from_right + second);
    }
  };
  plane(header.width, header.height, both.width);
  for (int chroma = 0; chroma < 2 && header.chroma != Chroma::mono; ++chroma)
    plane(header.chroma_width(), header.chroma_height(), both.chroma_width());
  return frame;
}

nlohmann::json report(const std::vector<Finding>& findings) {
  nlohmann::json windows = nlohmann::json::array();
  for (const Finding& finding : findings) {
    const Judgement& judgement = finding.judgement;
    windows.push_back({{"first", finding.first},
                       {"count", finding.count},
                       {"damage", judgement.damage ? nlohmann::json(name_of(*judgement.damage)) : nlohmann::json()},
                       {"sigma", judgement.sigma / kLevel},
                       {"coarseness", judgement.coarseness}});
  }
  return windows;
}

struct Outcome {
  std::int64_t frames;
  double seconds;
  std::string problem;
};

void tell(const RestoreArguments& arguments, const TransformerTemporalModel& model, const Restorer& restorer,
          const Outcome& outcome) {
  const double rate = static_cast<double>(outcome.frames) / std::max(outcome.seconds, 1e-9);
  if (arguments.json) {
    const nlohmann::json json{{"frames", outcome.frames},
                              {"seconds", outcome.seconds},
                              {"frames_per_second", rate},
                              {"engine", model.engine()},
                              {"isa", model.isa()},
                              {"dtype", name_of(model.compute_dtype())},
                              {"complete", outcome.problem.empty() && asked_to_end() == 0},
                              {"windows", report(restorer.findings())}};
    (arguments.output == "-" ? std::cerr : std::cout) << json.dump() << std::endl;
    return;
  }
  say(counted(outcome.frames, "frame") + " in " + with_decimals(outcome.seconds, 2) + " s, " + with_decimals(rate, 2) +
      " frames/s (" + engine_of(model) + ")");
  say(in_words(restorer.findings()));
}

Outcome restore_film(const RestoreArguments& arguments, FilmSource& source, Restorer& restorer) {
  const Y4mHeader header = source.header();
  Y4mHeader shown = header;
  if (arguments.compare) shown.width *= 2;
  FilmSink sink(arguments.output, shown, encode_options(arguments, source));
  watch_for_signals();
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome{0, 0, {}};
  std::deque<std::vector<std::uint8_t>> waiting;  // as they came, to be shown beside the restored ones
  FrameWatcher watcher;
  if (arguments.compare)
    watcher.given = [&](std::span<const std::uint8_t> frame) { waiting.emplace_back(frame.begin(), frame.end()); };
  watcher.restored = [&](std::span<const std::uint8_t> frame) {
    ++outcome.frames;
    if (arguments.compare) {
      sink.write(beside(header, shown, waiting.front(), frame));
      waiting.pop_front();
    } else {
      sink.write(frame);
    }
    return true;
  };
  // Frames already shown should leave: the reader of a pipe may be waiting for them.
  watcher.window_done = [&] { sink.flush(); };
  restore_frames(source, restorer, arguments.frames == 0 ? std::optional<std::int64_t>() : arguments.frames, watcher);
  outcome.problem = source.problem();
  if (outcome.frames == 0 && !outcome.problem.empty()) return outcome;  // nothing to keep
  sink.finish();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

void restore(const RestoreArguments& arguments) {
  if (!arguments.plan.empty() || arguments.segment >= 0 || !arguments.join.empty() || arguments.list) {
    restore_in_segments(arguments);
    return;
  }
  check_paths(arguments);
  const TransformerTemporalModel model = open_model(arguments);
  const RestoreOptions options = options_of(arguments, model);
  FilmSource source(arguments.input, arguments.start);
  if (source.info() != nullptr && source.info()->interlaced())
    say("interlaced video (" + source.info()->field_order + "): deinterlaced by ffmpeg's bwdif");
  Restorer restorer(model, source.header(), options);
  const Outcome outcome = restore_film(arguments, source, restorer);
  if (outcome.frames > 0 || outcome.problem.empty()) tell(arguments, model, restorer, outcome);
  if (!outcome.problem.empty()) {
    say("error: " + outcome.problem);
    if (outcome.frames > 0) say("The " + counted(outcome.frames, "frame") + " before it: restored and kept.");
    throw ExitCode{1};
  }
  if (asked_to_end() != 0) {
    say("Ended by a signal: the frames that had come are restored and kept.");
    throw ExitCode{128 + asked_to_end()};
  }
}

void add_model_options(CLI::App& command, RestoreArguments& arguments) {
  command
      .add_option("-m,--model", arguments.model, "Model folder, as train writes it (default: the one that is shipped)")
      ->type_name("FOLDER");
  command.add_option("--strength", arguments.strength, "The noise's deviation in levels of 0..255, or auto")
      ->type_name("X")
      ->capture_default_str();
  add_choice(command, "--damage", arguments.damage, {"auto", "noise", "flicker", "both"},
             "What is wrong with the video");
  add_whole_number(command, "--window", arguments.window, 1,
                   "Frames that the model sees at once (default: those it has positions for, at most 16)");
  command
      .add_option("--shifts", arguments.shifts,
                  "Shifted grids of patches that are averaged, half of them a window: more is better and slower")
      ->check(one_of({"1", "2", "4", "8", "16"}))
      ->type_name("1|2|4|8|16")
      ->capture_default_str();
  add_engine_options(command, arguments.engine);
}

void add_film_options(CLI::App& command, RestoreArguments& arguments) {
  command.add_option("input,-i,--input", arguments.input, "A video that ffmpeg decodes, .y4m, or - for a pipe of .y4m")
      ->type_name("FILE")
      ->capture_default_str();
  command
      .add_option(
          "output,-o,--output", arguments.output,
          "A video: .mp4, .m4v, .mov, .mkv, .webm (the input's sound and metadata are copied), .y4m, or - for a "
          "pipe of .y4m")
      ->type_name("FILE")
      ->capture_default_str();
  add_whole_number(command, "--start", arguments.start, 0, "Frames to leave out at the beginning");
  add_whole_number(command, "--frames", arguments.frames, 1, "Frames to restore at most (default: all)");
  command.add_flag("--compare", arguments.compare, "Write what came and what it became side by side");
  command.add_flag("--json", arguments.json, "Say what was found and how fast it was as JSON, on stdout");
}

void add_segment_options(CLI::App& command, RestoreArguments& arguments) {
  const char* const group = "A film over many machines";
  command
      .add_option("--plan", arguments.plan,
                  "File of a plan. Alone: looks at the film once and writes it. The rest goes by it")
      ->type_name("FILE")
      ->group(group);
  add_whole_number(command, "--segment-frames", arguments.segment_frames, 1,
                   "Frames of a segment, about, for a new plan")
      ->capture_default_str()
      ->group(group);
  add_whole_number(command, "--segment", arguments.segment, 0,
                   "Restore this segment of the plan into a file of the folder --output")
      ->group(group);
  command
      .add_option("--join", arguments.join, "Make --output of the segments in this folder, or say which are missing")
      ->type_name("FOLDER")
      ->group(group);
  command
      .add_flag("--list", arguments.list, "Print the plan's segments, with --join those that the folder has not yet")
      ->group(group);
}

}  // namespace

void add_restore(CLI::App& program) {
  auto arguments = std::make_shared<RestoreArguments>();
  CLI::App* command = program.add_subcommand("restore", "Take noise and flicker out of a video");
  add_film_options(*command, *arguments);
  add_model_options(*command, *arguments);
  add_segment_options(*command, *arguments);
  command->footer(
      "Examples:\n"
      "  kineograph restore noisy.mp4 clean.mp4\n"
      "  kineograph restore noisy.mp4 trial.mp4 --start 10 --frames 10 --compare\n"
      "  ffmpeg -v error -i noisy.mp4 -f yuv4mpegpipe - | kineograph restore | ffmpeg -v error -i - piped.mp4");
  command->callback([arguments] { restore(*arguments); });
}

}  // namespace kineograph::cli

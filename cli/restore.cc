// kineograph restore: takes noise and flicker out of a video.
#include <charconv>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "clips.h"
#include "commands.h"
#include "kineograph/kineograph.h"
#include "messages.h"
#include "models.h"
#include "options.h"
#include "progress.h"
#include "video/clip_io.h"
#include "video/output_file.h"
#include "video/restore/restorer.h"

namespace kineograph::cli {

using namespace video;

namespace {

struct RestoreArguments {
  std::string model, input = "-", output = "-", strength = "auto", damage = "auto";
  std::int64_t window = 0, shifts = 16;
  EngineArguments engine;
};

std::optional<double> parse_strength(const std::string& text) {
  if (text == "auto") return {};
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= 255))
    throw CLI::ValidationError("--strength", "expected auto or a deviation from 0 to 255, found " + text);
  return value;
}

std::optional<Damage> parse_damage(const std::string& text) {
  for (std::int64_t i = 0; i < kDamages; ++i)
    if (text == name_of(static_cast<Damage>(i))) return static_cast<Damage>(i);
  return {};
}

void check_paths(const RestoreArguments& arguments) {
  check_video_path("--input", arguments.input);
  check_video_path("--output", arguments.output);
}

TransformerTemporalModel open_model(const RestoreArguments& arguments) {
  if (!arguments.model.empty()) check_model_path(arguments.model);
  return TransformerTemporalModel::from_pretrained(
      arguments.model.empty() ? shipped_model("restore") : std::filesystem::path(arguments.model),
      arguments.engine.model_options());
}

/// Restores all frames; returns how many there were.
std::int64_t restore_frames(VideoFile& video, Restorer& restorer, OutputFile& output) {
  std::int64_t frames = 0;
  Progress progress(video.total_frames());
  std::vector<std::uint8_t> frame;
  const auto write_restored = [&] {
    std::int64_t written = 0;
    for (; restorer.pop(frame); ++written) write_y4m_frame(output.stream(), frame);
    if (written == 0) return;
    // Finished frames leave at once: the reader of a pipe may be waiting for them.
    output.stream().flush();
    output.check();
    frames += written;
    progress.advance(written);
  };
  while (video.reader().next(frame)) {
    restorer.push(frame);
    write_restored();
  }
  restorer.finish();
  write_restored();
  return frames;
}

void restore(const RestoreArguments& arguments) {
  RestoreOptions options;
  options.sigma = parse_strength(arguments.strength);
  options.damage = parse_damage(arguments.damage);
  options.shifts = arguments.shifts;
  options.threads = arguments.engine.threads;
  check_paths(arguments);
  const auto model = open_model(arguments);
  options.window = arguments.window != 0 ? arguments.window : default_window(model.config());

  VideoFile video(arguments.input);
  const Y4mHeader header = video.header();
  Restorer restorer(model, header, options);
  OutputFile output(arguments.output);
  write_y4m_header(output.stream(), header);
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const std::int64_t frames = restore_frames(video, restorer, output);
  output.commit();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  say(counted(frames, "frame") + " in " + with_decimals(seconds, 2) + " s, " +
      with_decimals(static_cast<double>(frames) / std::max(seconds, 1e-9), 2) + " frames/s (" +
      std::string(name_of(restorer.damage())) + ", sigma " + with_decimals(restorer.sigma(), 1) + "; " +
      engine_of(model) + ")");
}

}  // namespace

void add_restore(CLI::App& program) {
  auto arguments = std::make_shared<RestoreArguments>();
  CLI::App* command = program.add_subcommand("restore", "Take noise and flicker out of a video");
  command
      ->add_option("-m,--model", arguments->model,
                   "Model folder, as train writes it (default: the one that is shipped)")
      ->type_name("FOLDER");
  command->add_option("--strength", arguments->strength, "The noise's deviation in levels of 0..255, or auto")
      ->type_name("X")
      ->capture_default_str();
  add_choice(*command, "--damage", arguments->damage, {"auto", "noise", "flicker", "both"},
             "What is wrong with the video");
  command->add_option("-i,--input", arguments->input, ".y4m, or - for a pipe of .y4m")
      ->type_name("FILE")
      ->capture_default_str();
  command->add_option("-o,--output", arguments->output, ".y4m, or - for a pipe of .y4m")
      ->type_name("FILE")
      ->capture_default_str();
  add_whole_number(*command, "--window", arguments->window, 1,
                   "Frames that the model sees at once (default: those it has positions for, at most 16)");
  command
      ->add_option("--shifts", arguments->shifts,
                   "Shifted grids of patches that are averaged, half of them a window: more is better and slower")
      ->check(one_of({"1", "2", "4", "8", "16"}))
      ->type_name("1|2|4|8|16")
      ->capture_default_str();
  add_engine_options(*command, arguments->engine);
  command->footer(
      "Example:\n"
      "  ffmpeg -v error -i noisy.mp4 -pix_fmt yuv444p -f yuv4mpegpipe - | kineograph restore |\n"
      "    ffmpeg -v error -i - clean.mp4");
  command->callback([arguments] { restore(*arguments); });
}

}  // namespace kineograph::cli

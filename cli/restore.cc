// kineograph restore: takes noise and flicker out of a video.
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "kineograph/kineograph.h"
#include "models.h"
#include "progress.h"
#include "video/clip_io.h"
#include "video/output_file.h"
#include "video/restore/restorer.h"

namespace kineograph::cli {

using namespace video;

namespace {

struct RestoreArguments {
  std::string model, input = "-", output = "-", strength = "auto", damage = "auto";
  std::string engine = "auto", dtype = "auto", isa;
  std::int64_t window = 0, shifts = 16;
  int threads = 0;
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
  for (const auto& [option, path] : {std::pair{"--input", arguments.input}, {"--output", arguments.output}})
    if (kind_of(path) != ClipKind::y4m)
      throw CLI::ValidationError(
          option, "expected .y4m or - (a pipe of .y4m), found " + path + "; with ffmpeg: -f yuv4mpegpipe -");
  if (arguments.input == "-" && isatty(STDIN_FILENO))
    throw CLI::ValidationError("--input", "video is expected on stdin, which is a terminal; see --help");
  if (arguments.output == "-" && isatty(STDOUT_FILENO))
    throw CLI::ValidationError("--output", "video is nothing for a terminal; see --help");
}

std::string with_decimals(double value, int decimals) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

void restore(const RestoreArguments& arguments) {
  RestoreOptions options;
  options.sigma = parse_strength(arguments.strength);
  options.damage = parse_damage(arguments.damage);
  options.shifts = arguments.shifts;
  options.threads = arguments.threads;
  check_paths(arguments);
  ModelOptions model_options;
  model_options.engine = arguments.engine;
  model_options.isa = arguments.isa;
  if (arguments.dtype != "auto") model_options.compute_dtype = arguments.dtype == "bf16" ? DType::bf16 : DType::f32;
  model_options.on_warning = warn_once();
  const auto model = TransformerTemporalModel::from_pretrained(
      arguments.model.empty() ? shipped_model("restore") : std::filesystem::path(arguments.model), model_options);
  options.window = arguments.window != 0 ? arguments.window : default_window(model.config());

  VideoFile video(arguments.input);
  const Y4mHeader header = video.header();
  Restorer restorer(model, header, options);
  OutputFile output(arguments.output);
  write_y4m_header(output.stream(), header);

  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  std::int64_t frames = 0;
  {
    Progress progress(video.total_frames());
    std::vector<std::uint8_t> frame;
    const auto write_restored = [&] {
      std::int64_t written = 0;
      for (; restorer.pop(frame); ++written) write_y4m_frame(output.stream(), frame);
      if (written == 0) return;
      // Frames already shown should leave: the reader of a pipe may be waiting for them.
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
  }
  output.commit();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  say(std::to_string(frames) + " frames in " + with_decimals(seconds, 2) + " s, " +
      with_decimals(static_cast<double>(frames) / std::max(seconds, 1e-9), 2) + " frames/s (" +
      std::string(name_of(restorer.damage())) + ", sigma " + with_decimals(restorer.sigma(), 1) + "; engine " +
      std::string(model.engine()) + ", " + std::string(model.isa()) + ", " +
      std::string(name_of(model.compute_dtype())) + ")");
}

std::vector<std::string> engine_names() {
  std::vector<std::string> names = engines();
  names.insert(names.begin(), "auto");
  return names;
}

}  // namespace

void add_restore(CLI::App& program) {
  auto arguments = std::make_shared<RestoreArguments>();
  CLI::App* command = program.add_subcommand("restore", "Take noise and flicker out of a video");
  command->add_option("--model", arguments->model,
                      "Model folder, as train writes it (default: the one that is shipped)");
  command->add_option("--strength", arguments->strength, "The noise's deviation in levels of 0..255, or auto")
      ->capture_default_str();
  command->add_option("--damage", arguments->damage, "What is wrong with the video")
      ->check(CLI::IsMember({"auto", "noise", "flicker", "both"}))
      ->capture_default_str();
  command->add_option("--input", arguments->input, ".y4m, or - for a pipe of .y4m")->capture_default_str();
  command->add_option("--output", arguments->output, ".y4m, or - for a pipe of .y4m")->capture_default_str();
  command
      ->add_option("--window", arguments->window,
                   "Frames that the model sees at once (default: those it has positions for, at most 16)")
      ->check(CLI::Range(std::int64_t{1}, std::numeric_limits<std::int64_t>::max()));
  command
      ->add_option("--shifts", arguments->shifts,
                   "Shifted grids of patches that are averaged, half of them a window: more is better and slower")
      ->check(CLI::IsMember({1, 2, 4, 8, 16}))
      ->capture_default_str();
  command->add_option("--engine", arguments->engine, "Engine to run on")
      ->check(CLI::IsMember(engine_names()))
      ->capture_default_str();
  command->add_option("--isa", arguments->isa, "Instruction set to force (see --version)");
  command->add_option("--dtype", arguments->dtype, "What matrix products take; auto follows the model")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads; 0 for KINEOGRAPH_NUM_THREADS or all cores")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  command->footer(
      "Example:\n"
      "  ffmpeg -i noisy.mp4 -pix_fmt yuv444p -f yuv4mpegpipe - | kineograph restore | ffmpeg -i - clean.mp4");
  command->callback([arguments] { restore(*arguments); });
}

}  // namespace kineograph::cli

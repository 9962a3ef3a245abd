// kineograph restore, a film in segments: planned once, restored anywhere, joined in order.
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "kineograph/error.h"
#include "messages.h"
#include "progress.h"
#include "restoring.h"
#include "video/output_file.h"
#include "video/restore/plan.h"

namespace kineograph::cli {

using namespace video;

namespace {

// Lossless Matroska where ffmpeg decodes the film, else .y4m, which needs no other program.
std::string extension_for(const FilmSource& source) { return source.info() != nullptr ? ".mkv" : ".y4m"; }

std::filesystem::path file_in(const std::filesystem::path& folder, const Plan& plan, std::size_t segment) {
  for (const char* extension : {".mkv", ".y4m"})
    if (const std::filesystem::path file = folder / plan.file_of(segment, extension); std::filesystem::exists(file))
      return file;
  return {};
}

void end_where_asked() {
  if (asked_to_end() != 0) throw ExitCode{128 + asked_to_end()};
}

void make_plan(const RestoreArguments& arguments) {
  const TransformerTemporalModel model = open_model(arguments);
  const RestoreOptions options = options_of(arguments, model);
  FilmSource source(arguments.input);
  OutputFile file(arguments.plan);
  watch_for_signals();
  Planner planner(source.header(), options, arguments.segment_frames);
  {
    Progress progress(source.total());
    std::vector<std::uint8_t> frame;
    while (asked_to_end() == 0 && source.next(frame)) {
      planner.push(frame);
      progress.advance(1);
    }
  }
  end_where_asked();
  if (!source.problem().empty()) throw FormatError(arguments.input, "a film that is whole", source.problem());
  Plan plan = planner.finish();
  if (plan.frames == 0) throw FormatError(arguments.input, "at least one frame", "none");
  plan.engine = model.engine();
  plan.isa = model.isa();
  plan.dtype = name_of(model.compute_dtype());
  plan.model = hash_of(model);
  file.stream() << to_json(plan);
  file.commit();
  std::vector<Finding> findings;
  for (const auto& [start, judgement] : plan.judgements) {
    if (!findings.empty()) findings.back().count = start - findings.back().first;
    findings.push_back({start, plan.frames - start, judgement});
  }
  say(std::to_string(plan.frames) + " frames, " + std::to_string(plan.scenes.size()) + " scenes, " +
      std::to_string(plan.segments.size()) + " segments");
  say(in_words(findings));
}

TransformerTemporalModel model_of(const RestoreArguments& arguments, const Plan& plan) {
  RestoreArguments planned = arguments;
  planned.engine.engine = plan.engine;
  planned.engine.isa = plan.isa;
  planned.engine.dtype = plan.dtype;
  TransformerTemporalModel model = open_model(planned);
  if (hash_of(model) != plan.model) throw FormatError(arguments.plan, "the model that it was made with", "another one");
  return model;
}

bool fits(const Y4mHeader& header, const Y4mHeader& planned) {
  return header.width == planned.width && header.height == planned.height && header.chroma == planned.chroma &&
         header.bits == planned.bits && header.full_range == planned.full_range;
}

// A film that begins at the segment's first frame to be taken: found by time where that gives the planned frame, else
// by counting.
std::unique_ptr<FilmSource> open_at(const RestoreArguments& arguments, const Plan& plan, const Segment& segment,
                                    std::vector<std::uint8_t>& first) {
  for (const bool seek : {true, false}) {
    auto source = std::make_unique<FilmSource>(arguments.input, segment.start, seek);
    if (!fits(source->header(), plan.header)) break;
    if (source->next(first) && hash_of(first) == segment.hash) return source;
    if (source->info() == nullptr) break;
  }
  throw FormatError(arguments.input, "the film that " + arguments.plan + " was made of",
                    "another frame " + std::to_string(segment.start));
}

void restore_segment(const RestoreArguments& arguments) {
  const Plan plan = read_plan(arguments.plan);
  const auto number = static_cast<std::size_t>(arguments.segment);
  if (number >= plan.segments.size())
    throw ArgumentError("--segment", "one from 0 to " + std::to_string(plan.segments.size() - 1),
                        std::to_string(arguments.segment));
  const std::filesystem::path folder = arguments.output;
  if (const auto there = file_in(folder, plan, number); !there.empty()) {
    say(there.string() + " is there");
    return;
  }
  const Segment& segment = plan.segments[number];
  const TransformerTemporalModel model = model_of(arguments, plan);
  RestoreOptions options;
  options.window = plan.window;
  options.shifts = plan.shifts;
  options.threads = arguments.engine.threads;
  options.judgements = &plan.judgements;
  options.first = segment.start;
  options.scene = segment.scene;
  std::vector<std::uint8_t> first;
  const std::unique_ptr<FilmSource> source = open_at(arguments, plan, segment, first);
  Restorer restorer(model, source->header(), options);
  std::filesystem::create_directories(folder);
  EncodeOptions encoding;
  encoding.lossless = true;
  FilmSink sink(folder / plan.file_of(number, extension_for(*source)), source->header(), encoding);
  watch_for_signals();

  std::vector<std::uint64_t> hashes;  // of the segment's frames as they came
  std::int64_t seen = segment.start, given = segment.start;
  FrameWatcher watcher;
  watcher.given = [&](std::span<const std::uint8_t> frame) {
    if (seen >= segment.first && seen < segment.first + segment.count) hashes.push_back(hash_of(frame));
    ++seen;
  };
  watcher.restored = [&](std::span<const std::uint8_t> frame) {
    if (given++ >= segment.first) sink.write(frame);
    return given < segment.first + segment.count;
  };
  watcher.given(first);
  restorer.push(first);
  restore_frames(*source, restorer, {}, watcher);
  end_where_asked();
  if (given != segment.first + segment.count || hash_of(std::span<const std::uint64_t>(hashes)) != segment.frames)
    throw FormatError(arguments.input, "the film that " + arguments.plan + " was made of",
                      source->problem().empty() ? "other frames" : source->problem());
  sink.finish();
  say("segment " + std::to_string(number) + ": " + std::to_string(segment.count) + " frames");
}

std::vector<std::size_t> missing_of(const Plan& plan, const std::filesystem::path& folder) {
  std::vector<std::size_t> missing;
  for (std::size_t i = 0; i < plan.segments.size(); ++i)
    if (folder.empty() || file_in(folder, plan, i).empty()) missing.push_back(i);
  return missing;
}

void list_segments(const RestoreArguments& arguments) {
  for (const std::size_t segment : missing_of(read_plan(arguments.plan), arguments.join)) std::cout << segment << '\n';
}

void join(const RestoreArguments& arguments) {
  const Plan plan = read_plan(arguments.plan);
  if (!is_film(arguments.output)) throw ArgumentError("--output", "a video, .y4m or -", arguments.output);
  if (const std::vector<std::size_t> missing = missing_of(plan, arguments.join); !missing.empty()) {
    std::string numbers;
    for (const std::size_t segment : missing) numbers += (numbers.empty() ? "" : " ") + std::to_string(segment);
    throw IoError(arguments.join, "every segment of " + arguments.plan, "none of the numbers " + numbers);
  }
  EncodeOptions options;
  const FilmSource film(arguments.input);  // for what is copied of it
  if (film.info() != nullptr) {
    options.source = arguments.input;
    options.colours = *film.info();
  }
  if (!fits(film.header(), plan.header))
    throw FormatError(arguments.input, "the film that " + arguments.plan + " was made of", "another one");
  FilmSink sink(arguments.output, film.header(), options);
  watch_for_signals();
  Progress progress(plan.frames);
  std::vector<std::uint8_t> frame;
  for (std::size_t i = 0; i < plan.segments.size(); ++i) {
    const std::filesystem::path file = file_in(arguments.join, plan, i);
    FilmSource source(file);
    std::int64_t frames = 0;
    for (; source.next(frame); ++frames) {
      end_where_asked();
      sink.write(frame);
      progress.advance(1);
    }
    if (frames != plan.segments[i].count || !source.problem().empty() || !fits(source.header(), plan.header))
      throw FormatError(file.string(), std::to_string(plan.segments[i].count) + " frames of the film",
                        source.problem().empty() ? std::to_string(frames) + " frames" : source.problem());
    sink.flush();
  }
  sink.finish();
  say(std::to_string(plan.frames) + " frames joined");
}

}  // namespace

void restore_in_segments(const RestoreArguments& arguments) {
  if (arguments.plan.empty()) throw CLI::ValidationError("--plan", "expected with --segment, --join and --list");
  if (arguments.segment >= 0 && (arguments.list || !arguments.join.empty()))
    throw CLI::ValidationError("--segment", "expected without --join and --list");
  if (arguments.list)
    list_segments(arguments);
  else if (!arguments.join.empty())
    join(arguments);
  else if (arguments.segment >= 0)
    restore_segment(arguments);
  else
    make_plan(arguments);
}

}  // namespace kineograph::cli

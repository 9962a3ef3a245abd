#include "video/restore/plan.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "kineograph/config.h"
#include "kineograph/error.h"

namespace kineograph::video {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr std::pair<Chroma, const char*> kChromas[] = {
    {Chroma::mono, "mono"}, {Chroma::c420, "420"}, {Chroma::c422, "422"}, {Chroma::c444, "444"}};

std::string hexadecimal(std::uint64_t value, int digits = 16) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return {text, static_cast<std::size_t>(digits)};
}

std::uint64_t from_hexadecimal(const json& text) { return std::stoull(text.get<std::string>(), nullptr, 16); }

json header_json(const Y4mHeader& header) {
  json out{{"width", header.width},
           {"height", header.height},
           {"bits", header.bits},
           {"full_range", header.full_range},
           {"parameters", header.parameters}};
  for (const auto& [chroma, name] : kChromas)
    if (chroma == header.chroma) out["chroma"] = name;
  return out;
}

Y4mHeader header_from(const json& in) {
  Y4mHeader header;
  header.width = in.at("width");
  header.height = in.at("height");
  header.bits = in.at("bits");
  header.full_range = in.at("full_range");
  header.parameters = in.at("parameters").get<std::vector<std::string>>();
  for (const auto& [chroma, name] : kChromas)
    if (in.at("chroma") == name) header.chroma = chroma;
  return header;
}

json judgement_json(std::int64_t start, const Judgement& judgement) {
  return {{"start", start},
          {"damage", judgement.damage ? json(name_of(*judgement.damage)) : json()},
          {"sigma", judgement.sigma},
          {"coarseness", judgement.coarseness},
          {"level", {judgement.level.mean, judgement.level.deviation}},
          {"slope", judgement.slope}};
}

Judgement judgement_from(const json& in) {
  Judgement judgement;
  if (!in.at("damage").is_null()) {
    judgement.damage = damage_of(in.at("damage").get<std::string>());
    if (!judgement.damage) throw json::other_error::create(501, "no such damage", &in);
  }
  judgement.sigma = in.at("sigma");
  judgement.coarseness = in.at("coarseness");
  judgement.level = {in.at("level").at(0), in.at("level").at(1)};
  judgement.slope = in.at("slope");
  return judgement;
}

json segment_json(const Segment& segment) {
  return {{"first", segment.first},
          {"count", segment.count},
          {"start", segment.start},
          {"scene", segment.scene},
          {"hash", hexadecimal(segment.hash)},
          {"frames", hexadecimal(segment.frames)}};
}

Segment segment_from(const json& in) {
  return {in.at("first"),
          in.at("count"),
          in.at("start"),
          in.at("scene"),
          from_hexadecimal(in.at("hash")),
          from_hexadecimal(in.at("frames"))};
}

SurveyOptions survey_options(const RestoreOptions& options) {
  SurveyOptions survey{.window = options.window, .damage = options.damage, .threads = options.threads};
  if (options.sigma) survey.sigma = *options.sigma * kLevel;
  return survey;
}

}  // namespace

std::uint64_t hash_of(std::span<const std::uint8_t> frame) { return XXH3_64bits(frame.data(), frame.size()); }

std::uint64_t hash_of(std::span<const std::uint64_t> frames) {
  return XXH3_64bits(frames.data(), frames.size() * sizeof(std::uint64_t));
}

std::uint64_t hash_of(const TransformerTemporalModel& model) {
  const std::string config = model.config().to_json();
  std::vector<std::uint64_t> hashes{XXH3_64bits(config.data(), config.size())};
  for (const Parameter& parameter : model.parameters()) {
    // Contiguous, whatever the caller's memory is.
    const Tensor values = convert(parameter.value, parameter.value.dtype());
    hashes.push_back(XXH3_64bits(parameter.name.data(), parameter.name.size()));
    hashes.push_back(XXH3_64bits(values.data(), values.bytes()));
  }
  return hash_of(hashes);
}

std::string to_json(const Plan& plan) {
  json out{{"kineograph_plan", kVersion},
           {"window", plan.window},
           {"shifts", plan.shifts},
           {"engine", plan.engine},
           {"isa", plan.isa},
           {"dtype", plan.dtype},
           {"model", hexadecimal(plan.model)},
           {"video", header_json(plan.header)},
           {"frames", plan.frames},
           {"scenes", plan.scenes}};
  for (const auto& [start, judgement] : plan.judgements) out["windows"].push_back(judgement_json(start, judgement));
  for (const Segment& segment : plan.segments) out["segments"].push_back(segment_json(segment));
  return out.dump(1) + "\n";
}

Plan plan_from_json(const std::string& text, const std::string& where) {
  try {
    const json in = json::parse(text);
    if (in.at("kineograph_plan") != kVersion)
      throw FormatError(where, "a plan of version " + std::to_string(kVersion), in.at("kineograph_plan").dump());
    Plan plan;
    plan.window = in.at("window");
    plan.shifts = in.at("shifts");
    plan.engine = in.at("engine");
    plan.isa = in.at("isa");
    plan.dtype = in.at("dtype");
    plan.model = from_hexadecimal(in.at("model"));
    plan.header = header_from(in.at("video"));
    plan.frames = in.at("frames");
    plan.scenes = in.at("scenes").get<std::vector<std::int64_t>>();
    for (const json& window : in.at("windows")) plan.judgements[window.at("start")] = judgement_from(window);
    for (const json& segment : in.at("segments")) plan.segments.push_back(segment_from(segment));
    return plan;
  } catch (const json::exception& error) {
    throw FormatError(where, "a plan as restore --plan writes it", error.what());
  } catch (const std::logic_error& error) {  // of stoull
    throw FormatError(where, "a plan as restore --plan writes it", "a hash that is none");
  }
}

Plan read_plan(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw IoError(path.string(), "a plan that can be read", "none", "restore FILM --plan makes one.");
  std::stringstream text;
  text << in.rdbuf();
  return plan_from_json(text.str(), path.string());
}

std::string Plan::name() const {
  const std::string text = to_json(*this);
  return hexadecimal(XXH3_64bits(text.data(), text.size()), 8);
}

std::string Plan::file_of(std::size_t segment, const std::string& extension) const {
  std::string number = std::to_string(segment);
  number.insert(0, number.size() < 5 ? 5 - number.size() : 0, '0');
  return "segment-" + number + "-" + name() + extension;
}

std::vector<std::int64_t> cut_up(std::span<const std::int64_t> scenes, std::int64_t frames, std::int64_t length) {
  std::vector<std::int64_t> parts;
  for (std::size_t i = 0; i < scenes.size(); ++i) {
    std::int64_t begin = scenes[i];
    const std::int64_t end = i + 1 < scenes.size() ? scenes[i + 1] : frames;
    // Short scenes go on in the part before them.
    if (!parts.empty() && end - parts.back() <= length) continue;
    parts.push_back(begin);
    for (; end - begin > length + length / 2; parts.push_back(begin)) begin += length;
  }
  return parts;
}

Planner::Planner(const Y4mHeader& header, const RestoreOptions& options, std::int64_t segment)
    : segment_(segment), survey_(header, survey_options(options)) {
  plan_.header = header;
  plan_.window = options.window;
  plan_.shifts = options.shifts;
  plan_.scenes = {0};
}

void Planner::push(std::span<const std::uint8_t> frame) {
  hashes_.push_back(hash_of(frame));
  take(survey_.push(frame));
}

void Planner::take(const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    if (step.window) plan_.judgements[step.window->start] = step.judgement;
    if (step.ends_scene) plan_.scenes.push_back(step.complete);
  }
}

Plan Planner::finish() {
  take(survey_.finish());
  plan_.frames = static_cast<std::int64_t>(hashes_.size());
  while (!plan_.scenes.empty() && plan_.scenes.back() >= plan_.frames) plan_.scenes.pop_back();
  const std::vector<std::int64_t> parts = cut_up(plan_.scenes, plan_.frames, segment_);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    Segment segment;
    segment.first = parts[i];
    segment.count = (i + 1 < parts.size() ? parts[i + 1] : plan_.frames) - parts[i];
    segment.scene = *std::prev(std::upper_bound(plan_.scenes.begin(), plan_.scenes.end(), segment.first));
    segment.start = first_frame(segment.first, segment.scene, plan_.window);
    segment.hash = hashes_[static_cast<std::size_t>(segment.start)];
    segment.frames = hash_of(std::span<const std::uint64_t>(hashes_).subspan(static_cast<std::size_t>(segment.first),
                                                                             static_cast<std::size_t>(segment.count)));
    plan_.segments.push_back(segment);
  }
  return plan_;
}

}  // namespace kineograph::video

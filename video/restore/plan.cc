#include "video/restore/plan.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

#include "base/json.h"
#include "base/text.h"
#include "kineograph/config.h"
#include "kineograph/error.h"

namespace kineograph::video {
namespace {

constexpr int kVersion = 1;
constexpr std::pair<Chroma, const char*> kChromas[] = {
    {Chroma::mono, "mono"}, {Chroma::c420, "420"}, {Chroma::c422, "422"}, {Chroma::c444, "444"}};

std::string hexadecimal(std::uint64_t value, int digits = 16) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return {text, static_cast<std::size_t>(digits)};
}

/// Reads an object of a plan, and says where in which plan it is.
class Reader {
 public:
  Reader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  template <class T>
  T at(const char* name) const {
    return member<T, FormatError>(object_, name, where_);
  }
  template <class T>
  void read(const char* name, T& value) const {
    value = at<T>(name);
  }
  Reader within(const char* name) const {
    const Json* const found = object_.find(name);
    if (!found || !found->object()) refuse(name, "an object", found);
    return {*found, where_ + ": " + name};
  }
  std::vector<Reader> all(const char* name) const {
    const Json* const found = object_.find(name);
    if (!found || !found->array()) refuse(name, "a list of objects", found);
    std::vector<Reader> readers;
    for (const Json& one : *found->array()) readers.emplace_back(one, where_ + ": " + name);
    return readers;
  }
  std::uint64_t hexadecimal(const char* name) const {
    const auto text = at<std::string>(name);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc() || end != text.data() + text.size())
      refuse(name, "a hash in hexadecimal digits", object_.find(name));
    return value;
  }
  /// Which of `names` the text is.
  template <class Named>
  auto one_of(const char* name, const Named& names) const {
    const auto text = at<std::string>(name);
    for (const auto& [value, known] : names)
      if (text == known) return value;
    refuse(name, "one that is known", object_.find(name));
  }
  bool is_null(const char* name) const {
    const Json* const found = object_.find(name);
    return found && found->is_null();
  }
  [[noreturn]] void refuse(const char* name, const char* expected, const Json* found) const {
    throw FormatError(where_ + ": " + name, expected, found ? shortened(found->dump()) : "none",
                      "restore --plan writes plans.");
  }

 private:
  const Json& object_;
  std::string where_;
};

Json::Array list(const auto& values) { return {values.begin(), values.end()}; }

Json header_json(const Y4mHeader& header) {
  Json json;
  json["bits"] = header.bits;
  for (const auto& [chroma, name] : kChromas)
    if (chroma == header.chroma) json["chroma"] = name;
  json["full_range"] = header.full_range;
  json["height"] = header.height;
  json["parameters"] = list(header.parameters);
  json["width"] = header.width;
  return json;
}

Y4mHeader header_from(const Reader& in) {
  Y4mHeader header;
  in.read("width", header.width);
  in.read("height", header.height);
  in.read("bits", header.bits);
  in.read("full_range", header.full_range);
  in.read("parameters", header.parameters);
  header.chroma = in.one_of("chroma", kChromas);
  return header;
}

Json judgement_json(std::int64_t start, const Judgement& judgement) {
  Json json;
  json["coarseness"] = judgement.coarseness;
  json["damage"] = judgement.damage ? Json(name_of(*judgement.damage)) : Json();
  json["level"] = Json::Array{judgement.level.mean, judgement.level.deviation};
  json["sigma"] = judgement.sigma;
  json["slope"] = judgement.slope;
  json["start"] = start;
  return json;
}

Judgement judgement_from(const Reader& in) {
  Judgement judgement;
  if (!in.is_null("damage")) {
    judgement.damage = damage_of(in.at<std::string>("damage"));
    if (!judgement.damage) in.refuse("damage", "a damage that is known", nullptr);
  }
  in.read("sigma", judgement.sigma);
  in.read("coarseness", judgement.coarseness);
  const auto level = in.at<std::vector<double>>("level");
  if (level.size() != 2) in.refuse("level", "a mean and a deviation", nullptr);
  judgement.level = {level[0], level[1]};
  in.read("slope", judgement.slope);
  return judgement;
}

Json segment_json(const Segment& segment) {
  Json json;
  json["count"] = segment.count;
  json["first"] = segment.first;
  json["frames"] = hexadecimal(segment.frames);
  json["hash"] = hexadecimal(segment.hash);
  json["scene"] = segment.scene;
  json["start"] = segment.start;
  return json;
}

Segment segment_from(const Reader& in) {
  Segment segment;
  in.read("first", segment.first);
  in.read("count", segment.count);
  in.read("start", segment.start);
  in.read("scene", segment.scene);
  segment.hash = in.hexadecimal("hash");
  segment.frames = in.hexadecimal("frames");
  return segment;
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
  Json::Array windows, segments;
  for (const auto& [start, judgement] : plan.judgements) windows.push_back(judgement_json(start, judgement));
  for (const Segment& segment : plan.segments) segments.push_back(segment_json(segment));
  Json json;
  json["dtype"] = plan.dtype;
  json["engine"] = plan.engine;
  json["frames"] = plan.frames;
  json["isa"] = plan.isa;
  json["kineograph_plan"] = kVersion;
  json["model"] = hexadecimal(plan.model);
  json["scenes"] = list(plan.scenes);
  json["segments"] = std::move(segments);
  json["shifts"] = plan.shifts;
  json["video"] = header_json(plan.header);
  json["window"] = plan.window;
  json["windows"] = std::move(windows);
  return json.dump(1) + "\n";
}

Plan plan_from_json(const std::string& text, const std::string& where) {
  const Json json = parse_json<FormatError>(text, where);
  const Reader in(json, where);
  if (const int version = in.at<int>("kineograph_plan"); version != kVersion)
    throw FormatError(where, "a plan of version " + std::to_string(kVersion), std::to_string(version));
  Plan plan;
  in.read("window", plan.window);
  in.read("shifts", plan.shifts);
  in.read("engine", plan.engine);
  in.read("isa", plan.isa);
  in.read("dtype", plan.dtype);
  plan.model = in.hexadecimal("model");
  plan.header = header_from(in.within("video"));
  in.read("frames", plan.frames);
  in.read("scenes", plan.scenes);
  for (const Reader& window : in.all("windows"))
    plan.judgements[window.at<std::int64_t>("start")] = judgement_from(window);
  for (const Reader& segment : in.all("segments")) plan.segments.push_back(segment_from(segment));
  return plan;
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

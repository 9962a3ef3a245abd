// A film restored in parts: what one pass over it found, and the segments it is cut into.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "kineograph/model.h"
#include "video/restore/restorer.h"
#include "video/y4m.h"

namespace kineograph::video {

/// Frames [first, first + count) of a film, restored by themselves.
struct Segment {
  std::int64_t first = 0, count = 0;
  std::int64_t start = 0;    ///< the frame from which on they have to be taken, as first_frame() says
  std::int64_t scene = 0;    ///< the first frame of the scene that `start` is in
  std::uint64_t hash = 0;    ///< XXH3 of frame `start`
  std::uint64_t frames = 0;  ///< of the segment's frames: XXH3 of their XXH3
};

/// All that the restored film depends on but its frames and the model.
struct Plan {
  // What the film was restored with.
  std::int64_t window = 0, shifts = 0;
  std::string engine, isa, dtype;
  std::uint64_t model = 0;  ///< hash_of() the model

  Y4mHeader header;
  std::int64_t frames = 0;
  std::vector<std::int64_t> scenes;  ///< their first frames
  Judgements judgements;
  std::vector<Segment> segments;

  /// Eight hexadecimal digits that tell plans apart.
  std::string name() const;
  /// Where a segment's frames are kept: its number and the plan's name, so that no other plan's are taken for them.
  std::string file_of(std::size_t segment, const std::string& extension) const;
};

/// XXH3 of a frame's planes.
std::uint64_t hash_of(std::span<const std::uint8_t> frame);
/// Of a segment's frames, of their hashes.
std::uint64_t hash_of(std::span<const std::uint64_t> frames);
/// Of a model's configuration and weights.
std::uint64_t hash_of(const TransformerTemporalModel& model);

/// Writes and reads a plan as JSON. Numbers come back as they were. Throws FormatError, IoError.
std::string to_json(const Plan& plan);
Plan plan_from_json(const std::string& text, const std::string& where);
Plan read_plan(const std::filesystem::path& path);

/// Where a film of `frames` frames whose scenes begin at `scenes` is cut into parts of about `length`: at cuts, and
/// inside of scenes that are longer than half as much again. The first frames of the parts.
std::vector<std::int64_t> cut_up(std::span<const std::int64_t> scenes, std::int64_t frames, std::int64_t length);

/// Makes a plan of a film's frames as they come.
class Planner {
 public:
  /// Segments have about `segment` frames: they begin at cuts where there are any.
  Planner(const Y4mHeader& header, const RestoreOptions& options, std::int64_t segment);
  void push(std::span<const std::uint8_t> frame);
  Plan finish();

 private:
  void take(const std::vector<Step>& steps);

  Plan plan_;
  std::int64_t segment_;
  Survey survey_;
  std::vector<std::uint64_t> hashes_;  // of every frame
};

}  // namespace kineograph::video

#include "video/train/windows.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "kineograph/error.h"
#include "video/scenes.h"

namespace kineograph::video {
namespace {

// The pixels that the cell [begin, begin + scale) of a line covers, and how much of each.
struct Cell {
  std::int64_t first;
  std::vector<float> shares;  // sum to 1
};

std::vector<Cell> cells(double origin, double scale, std::int64_t count, std::int64_t size) {
  std::vector<Cell> all;
  for (std::int64_t i = 0; i < count; ++i) {
    const double begin = origin + static_cast<double>(i) * scale, end = begin + scale;
    Cell cell{std::min(static_cast<std::int64_t>(begin), size - 1), {}};
    for (std::int64_t p = cell.first; p < size; ++p) {
      const double share = std::min(end, static_cast<double>(p + 1)) - std::max(begin, static_cast<double>(p));
      if (share <= 1e-9 && !cell.shares.empty()) break;
      cell.shares.push_back(static_cast<float>(std::max(share, 1e-9) / scale));
    }
    all.push_back(std::move(cell));
  }
  return all;
}

// Consecutive frames between two cuts.
struct Scene {
  std::int64_t first, length;
};

std::vector<Scene> scenes_of(const Video& video) {
  std::vector<Scene> scenes;
  Thumbnail before;
  for (std::size_t f = 0; f < video.frames.size(); ++f) {
    const auto pixels = static_cast<std::size_t>(video.width * video.height);
    const auto green = std::span<const std::uint8_t>(video.frames[f]).subspan(pixels, pixels);
    Thumbnail seen = thumbnail_of(green, video.height, video.width);
    if (f == 0 || is_cut(before, seen)) scenes.push_back({static_cast<std::int64_t>(f), 0});
    ++scenes.back().length;
    before = std::move(seen);
  }
  return scenes;
}

class VideoWindows : public WindowSource {
 public:
  explicit VideoWindows(Video video) : video_(std::move(video)), scenes_(scenes_of(video_)) {}

  void draw(Random& random, const WindowExtents& extents, std::span<std::uint8_t> window) const override {
    const double most =
        std::min(4.0, static_cast<double>(std::min(video_.width, video_.height)) / static_cast<double>(extents.crop));
    // Compressed clips are soft at their own size and sharp when shrunk: most windows are.
    const double u = random.uniform();
    const double scale = random.chance(0.2) ? 1 : 1 + (most - 1) * u;
    const double size = static_cast<double>(extents.crop) * scale;
    double left = random.uniform() * (static_cast<double>(video_.width) - size);
    double top = random.uniform() * (static_cast<double>(video_.height) - size);
    if (scale == 1) {
      left = std::floor(left);
      top = std::floor(top);
    }
    const std::vector<Cell> columns = cells(left, scale, extents.crop, video_.width);
    const std::vector<Cell> rows = cells(top, scale, extents.crop, video_.height);

    // A shrunk clip moves less. Most windows take neighbouring frames; some skip frames for faster motion.
    const std::int64_t stride = random.chance(0.7) ? 1 : 2 + random.below(2);
    const std::int64_t span = (extents.frames - 1) * stride + 1;
    const Scene& scene = scene_at(random.below(video_.length()));
    const std::int64_t start = random.below(std::max<std::int64_t>(1, scene.length - span + 1));
    const bool backwards = random.chance(0.5);
    for (std::int64_t f = 0; f < extents.frames; ++f) {
      const std::int64_t number = scene.first + there_and_back(start + f * stride, scene.length);
      const std::int64_t to = backwards ? extents.frames - 1 - f : f;
      shrink(video_.frames[static_cast<std::size_t>(number)], rows, columns,
             window.subspan(static_cast<std::size_t>(to * extents.frame_values()),
                            static_cast<std::size_t>(extents.frame_values())));
    }
  }

 private:
  // The scene that shows a frame: a scene is as likely as it is long.
  const Scene& scene_at(std::int64_t number) const {
    const auto after = std::upper_bound(scenes_.begin(), scenes_.end(), number,
                                        [](std::int64_t frame, const Scene& scene) { return frame < scene.first; });
    return *std::prev(after);
  }

  static std::int64_t there_and_back(std::int64_t number, std::int64_t length) {
    const std::int64_t last = length - 1;
    if (last == 0) return 0;
    number %= 2 * last;
    return number <= last ? number : 2 * last - number;
  }

  // The mean over the area that each pixel covers: no aliasing.
  void shrink(const std::vector<std::uint8_t>& frame, const std::vector<Cell>& rows, const std::vector<Cell>& columns,
              std::span<std::uint8_t> out) const {
    std::vector<float> line(static_cast<std::size_t>(video_.width));
    const std::int64_t first = columns.front().first;
    const std::int64_t last = columns.back().first + static_cast<std::int64_t>(columns.back().shares.size());
    std::size_t to = 0;
    for (std::int64_t colour = 0; colour < 3; ++colour) {
      const std::uint8_t* plane = frame.data() + colour * video_.width * video_.height;
      for (const Cell& row : rows) {
        std::fill(line.begin() + first, line.begin() + last, 0.0f);
        for (std::size_t i = 0; i < row.shares.size(); ++i) {
          const std::uint8_t* from = plane + (row.first + static_cast<std::int64_t>(i)) * video_.width;
          for (std::int64_t x = first; x < last; ++x) line[static_cast<std::size_t>(x)] += row.shares[i] * from[x];
        }
        for (const Cell& column : columns) {
          float sum = 0;
          for (std::size_t i = 0; i < column.shares.size(); ++i)
            sum += column.shares[i] * line[static_cast<std::size_t>(column.first) + i];
          out[to++] = static_cast<std::uint8_t>(std::min(sum, 255.0f) + 0.5f);
        }
      }
    }
  }

  Video video_;
  std::vector<Scene> scenes_;
};

}  // namespace

std::unique_ptr<WindowSource> windows_of(Video video, const WindowExtents& extents) {
  if (std::min(video.width, video.height) < extents.crop)
    throw ArgumentError(
        video.name,
        "at least " + std::to_string(extents.crop) + " x " + std::to_string(extents.crop) + " pixels, the crop",
        std::to_string(video.width) + " x " + std::to_string(video.height), "Give a smaller --crop.");
  return std::make_unique<VideoWindows>(std::move(video));
}

void augment(Random& random, const WindowExtents& extents, std::span<std::uint8_t> window) {
  const bool mirror_x = random.chance(0.5), mirror_y = random.chance(0.5), transpose = random.chance(0.5);
  std::int64_t order[3] = {0, 1, 2};
  if (random.chance(0.25))
    for (std::int64_t i = 2; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  const double gain = random.uniform(0.8, 1.2), pivot = random.uniform(64, 192);
  std::uint8_t contrast[256];
  for (int level = 0; level < 256; ++level)
    contrast[level] = static_cast<std::uint8_t>(std::clamp((level - pivot) * gain + pivot, 0.0, 255.0) + 0.5);
  const std::int64_t crop = extents.crop;
  std::vector<std::uint8_t> before(static_cast<std::size_t>(extents.frame_values()));
  for (std::int64_t f = 0; f < extents.frames; ++f) {
    std::uint8_t* to = window.data() + f * extents.frame_values();
    std::copy(to, to + extents.frame_values(), before.begin());
    for (const std::int64_t colour : order)
      for (std::int64_t y = 0; y < crop; ++y)
        for (std::int64_t x = 0; x < crop; ++x) {
          const std::int64_t from_y = mirror_y ? crop - 1 - y : y, from_x = mirror_x ? crop - 1 - x : x;
          const std::int64_t place = transpose ? from_x * crop + from_y : from_y * crop + from_x;
          *to++ = contrast[before[static_cast<std::size_t>(colour * crop * crop + place)]];
        }
  }
}

}  // namespace kineograph::video

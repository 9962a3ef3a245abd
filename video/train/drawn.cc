// Drawn motion: gradients, gratings and grain, on a ground and on shapes that move before it. Square roots and floors
// only, so that every machine draws the same.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "video/train/windows.h"

namespace kineograph::video {
namespace {

struct Point {
  double x, y;
};

// A wave of period 1 between -1 and 1, by two parabolas: a sine to the eye.
double wave(double t) {
  t -= std::floor(t);
  return t < 0.5 ? 16 * t * (0.5 - t) : -16 * (t - 0.5) * (1 - t);
}

// A value in -1..1 that belongs to a corner of a lattice.
double lattice(std::uint32_t seed, std::int64_t x, std::int64_t y) {
  std::uint32_t h =
      seed ^ (static_cast<std::uint32_t>(x) * 0x8DA6B343u) ^ (static_cast<std::uint32_t>(y) * 0xD8163841u);
  h = (h ^ (h >> 15)) * 0x2C1B3C6Du;
  h = (h ^ (h >> 12)) * 0x297A2D39u;
  return static_cast<double>(h ^ (h >> 15)) * 0x1p-31 - 1;
}

// Smooth noise: lattice values, blended.
double grain(std::uint32_t seed, Point p) {
  const double fx = std::floor(p.x), fy = std::floor(p.y), x = p.x - fx, y = p.y - fy;
  const auto ix = static_cast<std::int64_t>(fx), iy = static_cast<std::int64_t>(fy);
  const double u = x * x * (3 - 2 * x), v = y * y * (3 - 2 * y);
  const double top = lattice(seed, ix, iy) * (1 - u) + lattice(seed, ix + 1, iy) * u;
  const double bottom = lattice(seed, ix, iy + 1) * (1 - u) + lattice(seed, ix + 1, iy + 1) * u;
  return top * (1 - v) + bottom * v;
}

using Colour = std::array<double, 3>;

// Texture of a surface in its own coordinates, which are pixels.
class Texture {
 public:
  explicit Texture(Random& random) : seed_(static_cast<std::uint32_t>(random.bits())) {
    for (double& c : base_) c = random.uniform(10, 245);
    for (double& c : change_) c = random.uniform(-1, 1);
    const auto slope = random.direction();
    slope_ = {slope[0], slope[1]};
    steepness_ = random.chance(0.7) ? random.uniform(0, 1.2) : 0;
    if (random.chance(0.45)) {
      grating_ = random.uniform(8, 70);
      period_ = random.uniform(2.5, 24);
      const auto across = random.direction();
      across_ = {across[0] / period_, across[1] / period_};
      sharp_ = random.chance(0.4);
    }
    if (random.chance(0.65)) {
      grain_ = random.uniform(6, 60);
      grain_size_ = random.uniform(1.5, 14);
    }
  }

  Colour at(Point p) const {
    double amount = steepness_ * (p.x * slope_.x + p.y * slope_.y);
    if (grating_ > 0) {
      const double w = wave(p.x * across_.x + p.y * across_.y);
      // A sharp edge is as wide as a pixel.
      amount += grating_ * (sharp_ ? std::clamp(w * period_ * 0.6, -1.0, 1.0) : w);
    }
    if (grain_ > 0)
      amount += grain_ * (grain(seed_, {p.x / grain_size_, p.y / grain_size_}) * 0.65 +
                          grain(seed_ + 1, {p.x * 2.1 / grain_size_, p.y * 2.1 / grain_size_}) * 0.35);
    return {base_[0] + amount * (1 + 0.4 * change_[0]), base_[1] + amount * (1 + 0.4 * change_[1]),
            base_[2] + amount * (1 + 0.4 * change_[2])};
  }

 private:
  std::uint32_t seed_;
  Colour base_{}, change_{};
  Point slope_{}, across_{};
  double steepness_ = 0, grating_ = 0, period_ = 1, grain_ = 0, grain_size_ = 1;
  bool sharp_ = false;
};

// A place, a direction and a size that change evenly from frame to frame.
class Motion {
 public:
  Motion(Random& random, double extent, double speed) {
    place_ = {random.uniform(-0.1, 1.1) * extent, random.uniform(-0.1, 1.1) * extent};
    const auto way = random.direction();
    // Half of what there is in a video hardly moves.
    const double pixels = random.chance(0.35) ? 0 : speed * random.uniform() * random.uniform();
    step_ = {way[0] * pixels, way[1] * pixels};
    bend_ = {random.uniform(-0.05, 0.05) * pixels, random.uniform(-0.05, 0.05) * pixels};
    const auto turned = random.direction();
    turn_ = {turned[0], turned[1]};
    const double rate = random.chance(0.5) ? 0 : random.uniform(-0.06, 0.06), length = std::sqrt(1 + rate * rate);
    turning_ = {1 / length, rate / length};
    zooming_ = random.chance(0.5) ? 1 : random.uniform(0.98, 1.02);
  }

  void advance() {
    place_ = {place_.x + step_.x, place_.y + step_.y};
    step_ = {step_.x + bend_.x, step_.y + bend_.y};
    turn_ = {turn_.x * turning_.x - turn_.y * turning_.y, turn_.x * turning_.y + turn_.y * turning_.x};
    zoom_ *= zooming_;
  }
  double zoom() const { return zoom_; }
  // A pixel in the moving thing's own coordinates.
  Point inside(double x, double y) const {
    const double dx = (x - place_.x) / zoom_, dy = (y - place_.y) / zoom_;
    return {dx * turn_.x + dy * turn_.y, dy * turn_.x - dx * turn_.y};
  }

 private:
  Point place_{}, step_{}, bend_{}, turn_{}, turning_{};
  double zoom_ = 1, zooming_ = 1;
};

struct Figure {
  Texture texture;
  Motion motion;
  bool round;
  double half_width, half_height, opacity;

  Figure(Random& random, double extent)
      : texture(random),
        motion(random, extent, 9),
        round(random.chance(0.5)),
        half_width(random.uniform(0.04, 0.4) * extent),
        half_height(random.uniform(0.04, 0.4) * extent),
        opacity(random.chance(0.85) ? 1 : random.uniform(0.3, 0.9)) {}

  // How much of a pixel it covers: its edge is a pixel wide.
  double cover(Point p) const {
    const double x = std::abs(p.x), y = std::abs(p.y);
    double inside;
    if (round) {
      const double u = x / half_width, v = y / half_height;
      inside = (1 - std::sqrt(u * u + v * v)) * std::min(half_width, half_height);
    } else {
      inside = std::min(half_width - x, half_height - y);
    }
    return opacity * std::clamp(inside * motion.zoom() + 0.5, 0.0, 1.0);
  }
};

class DrawnWindows : public WindowSource {
 public:
  void draw(Random& random, const WindowExtents& extents, std::span<std::uint8_t> window) const override {
    const auto size = static_cast<double>(extents.crop);
    const Texture ground(random);
    Motion camera(random, size, 6);
    std::vector<Figure> figures;
    for (std::int64_t i = random.below(6); i >= 0; --i) figures.emplace_back(random, size);
    const std::int64_t pixels = extents.crop * extents.crop;
    for (std::int64_t f = 0; f < extents.frames; ++f) {
      std::uint8_t* to = window.data() + f * extents.frame_values();
      for (std::int64_t y = 0; y < extents.crop; ++y)
        for (std::int64_t x = 0; x < extents.crop; ++x, ++to) {
          const double px = static_cast<double>(x), py = static_cast<double>(y);
          Colour colour = ground.at(camera.inside(px, py));
          for (const Figure& figure : figures) {
            const Point p = figure.motion.inside(px, py);
            const double cover = figure.cover(p);
            if (cover <= 0) continue;
            const Colour own = figure.texture.at(p);
            for (std::size_t c = 0; c < 3; ++c) colour[c] += cover * (own[c] - colour[c]);
          }
          for (std::size_t c = 0; c < 3; ++c)
            to[static_cast<std::int64_t>(c) * pixels] =
                static_cast<std::uint8_t>(std::clamp(colour[c], 0.0, 255.0) + 0.5);
        }
      camera.advance();
      for (Figure& figure : figures) figure.motion.advance();
    }
  }
};

}  // namespace

std::unique_ptr<WindowSource> drawn_windows() { return std::make_unique<DrawnWindows>(); }

}  // namespace kineograph::video

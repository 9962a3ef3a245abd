#include "restoration.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kineograph/kineograph.h"
#include "video/latents.h"
#include "video/restore/restorer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kineograph::python {
namespace {

using namespace video;

using Colours = nb::ndarray<const float, nb::shape<3, -1, -1>, nb::c_contig, nb::device::cpu>;

// Colours of -1..1 in 16 bits: fine enough that frames which are copied come back as they were.
Y4mHeader header_of(std::int64_t height, std::int64_t width) {
  Y4mHeader header;
  header.height = height;
  header.width = width;
  header.chroma = Chroma::c444;
  header.bits = 16;
  header.full_range = true;
  return header;
}

class VideoRestorer {
 public:
  VideoRestorer(const TransformerTemporalModel& model, std::int64_t height, std::int64_t width,
                std::optional<std::int64_t> window, std::int64_t shifts, std::optional<double> strength,
                const std::string& damage, int threads)
      : header_(header_of(height, width)),
        restorer_(model, header_, options(model, window, shifts, strength, damage, threads)) {}

  void push(const Colours& frame) {
    if (static_cast<std::int64_t>(frame.shape(1)) != header_.height ||
        static_cast<std::int64_t>(frame.shape(2)) != header_.width)
      throw ArgumentError("frames",
                          "frames of " + std::to_string(header_.height) + " x " + std::to_string(header_.width),
                          std::to_string(frame.shape(1)) + " x " + std::to_string(frame.shape(2)));
    const nb::gil_scoped_release release;
    std::vector<std::uint8_t> planes(static_cast<std::size_t>(header_.frame_bytes()));
    rgb_to_frame(frame.data(), header_, planes);
    restorer_.push(planes);
  }

  void finish() {
    const nb::gil_scoped_release release;
    restorer_.finish();
  }

  // The next restored frame's colours (3, height, width), or None.
  std::optional<nb::ndarray<nb::numpy, float>> pop() {
    std::vector<std::uint8_t> planes;
    if (!restorer_.pop(planes)) return std::nullopt;
    const std::size_t height = static_cast<std::size_t>(header_.height),
                      width = static_cast<std::size_t>(header_.width);
    auto* const colours = new float[3 * height * width];
    const nb::capsule owner(colours, [](void* memory) noexcept { delete[] static_cast<float*>(memory); });
    frame_to_rgb(planes, header_, colours);
    return nb::ndarray<nb::numpy, float>(colours, {3, height, width}, owner);
  }

  nb::list findings() const {
    nb::list all;
    for (const Finding& finding : restorer_.findings()) {
      nb::dict one;
      one["first"] = finding.first;
      one["count"] = finding.count;
      one["damage"] = finding.judgement.damage ? nb::cast(std::string(name_of(*finding.judgement.damage))) : nb::none();
      one["sigma"] = finding.judgement.sigma / kLevel;
      one["coarseness"] = finding.judgement.coarseness;
      all.append(one);
    }
    return all;
  }

 private:
  static RestoreOptions options(const TransformerTemporalModel& model, std::optional<std::int64_t> window,
                                std::int64_t shifts, std::optional<double> strength, const std::string& damage,
                                int threads) {
    RestoreOptions options;
    options.window = window.value_or(default_window(model.config()));
    if (shifts != 1 && shifts != 2 && shifts != 4 && shifts != 8 && shifts != 16)
      throw ArgumentError("shifts", "1, 2, 4, 8 or 16", std::to_string(shifts));
    options.shifts = shifts;
    if (strength && !(*strength >= 0 && *strength <= 255))
      throw ArgumentError("strength", "a deviation from 0 to 255", std::to_string(*strength));
    options.sigma = strength;
    options.damage = damage_of(damage);
    if (!options.damage && damage != "auto") throw ArgumentError("damage", "auto, noise, flicker or both", damage);
    options.threads = threads;
    return options;
  }

  Y4mHeader header_;
  Restorer restorer_;
};

}  // namespace

void bind_restoration(nb::module_& module) {
  nb::class_<VideoRestorer>(module, "VideoRestorer")
      .def(nb::init<const TransformerTemporalModel&, std::int64_t, std::int64_t, std::optional<std::int64_t>,
                    std::int64_t, std::optional<double>, const std::string&, int>(),
           "model"_a, "height"_a, "width"_a, "window"_a.none(), "shifts"_a, "strength"_a.none(), "damage"_a,
           "num_threads"_a)
      .def("push", &VideoRestorer::push, "frame"_a)
      .def("finish", &VideoRestorer::finish)
      .def("pop", &VideoRestorer::pop)
      .def("findings", &VideoRestorer::findings, nb::sig("def findings(self) -> list[dict[str, object]]"));
}

}  // namespace kineograph::python

// Gaussian blurs of planes.
#pragma once

#include <cstdint>
#include <vector>

namespace kineograph::video {

/// Blurs a plane in place by a Gaussian of `deviation` pixels, cut at three of them, mirrored at the edges.
void blur(float* plane, std::int64_t height, std::int64_t width, double deviation);

/// The weights of a Gaussian of `deviation` at 0, 1, ... reach, cut at three deviations: at[0] + 2 at[1] + ... is 1.
std::vector<float> gaussian(double deviation);

/// Adds the planes (3, rows, columns) of cells to colours (3, height, width), straight lines between the cells'
/// middles.
void add_enlarged(const std::vector<float>& cells, std::int64_t rows, std::int64_t columns, std::int64_t cell,
                  std::int64_t height, std::int64_t width, std::vector<float>& colours);

}  // namespace kineograph::video

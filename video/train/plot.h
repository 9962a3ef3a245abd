// A plot of a run's loss.
#pragma once

#include <string>
#include <vector>

namespace kineograph::video {

/// An SVG picture: the loss of every step and its moving average over steps, on a logarithmic scale. `losses[i]` is
/// that of step i + 1.
std::string loss_plot(const std::vector<double>& losses);

}  // namespace kineograph::video

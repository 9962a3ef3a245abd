#include "video/train/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace kineograph::video {
namespace {

constexpr double kWidth = 760, kHeight = 420, kLeft = 70, kRight = 20, kTop = 40, kBottom = 50;
// More points than this are not told apart on a picture of that width.
constexpr std::size_t kPoints = 1500;

std::string number(double value, const char* format = "%.2f") {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

struct Scale {
  double least, most, steps;
  double x(double step) const {
    return kLeft + (kWidth - kLeft - kRight) * (steps > 1 ? (step - 1) / (steps - 1) : 0.5);
  }
  double y(double loss) const {
    const double place = std::log(std::clamp(loss, least, most) / least) / std::log(most / least);
    return kHeight - kBottom - (kHeight - kTop - kBottom) * place;
  }
};

std::string polyline(const std::vector<double>& values, const Scale& scale, const char* style) {
  std::string points;
  const std::size_t stride = std::max<std::size_t>(1, values.size() / kPoints);
  for (std::size_t i = 0; i < values.size(); i += stride)
    if (std::isfinite(values[i]) && values[i] > 0)
      points += number(scale.x(static_cast<double>(i + 1)), "%.1f") + "," + number(scale.y(values[i]), "%.1f") + " ";
  return "<polyline fill=\"none\" " + std::string(style) + " points=\"" + points + "\"/>\n";
}

std::string text(double x, double y, const char* anchor, const std::string& content) {
  return "<text x=\"" + number(x, "%.1f") + "\" y=\"" + number(y, "%.1f") + "\" text-anchor=\"" + anchor + "\">" +
         content + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2) {
  return "<line stroke=\"#ccc\" x1=\"" + number(x1, "%.1f") + "\" y1=\"" + number(y1, "%.1f") + "\" x2=\"" +
         number(x2, "%.1f") + "\" y2=\"" + number(y2, "%.1f") + "\"/>\n";
}

// Over the last hundredth of the steps so far, at least 10: follows a run's beginning and calms its end.
std::vector<double> smoothed(const std::vector<double>& losses) {
  std::vector<double> averages;
  double average = 0, n = 0;
  for (const double loss : losses) {
    if (std::isfinite(loss)) {
      n = std::min(n + 1, std::max(10.0, static_cast<double>(averages.size()) / 100));
      average += (loss - average) / n;
    }
    averages.push_back(average);
  }
  return averages;
}

}  // namespace

std::string loss_plot(const std::vector<double>& losses) {
  const std::vector<double> averages = smoothed(losses);
  Scale scale{1, 1, static_cast<double>(losses.size())};
  bool first = true;
  for (const double loss : losses)
    if (std::isfinite(loss) && loss > 0) {
      scale.least = first ? loss : std::min(scale.least, loss);
      scale.most = first ? loss : std::max(scale.most, loss);
      first = false;
    }
  if (scale.most < scale.least * 1.01) scale.most = scale.least * 1.01;
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(kWidth, "%.0f") + "\" height=\"" +
                    number(kHeight, "%.0f") +
                    "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" "
                    "fill=\"white\"/>\n";
  for (double decade = std::floor(std::log10(scale.least)); decade <= std::log10(scale.most); ++decade)
    for (const double part : {1.0, 2.0, 5.0}) {
      const double value = part * std::pow(10, decade);
      if (value < scale.least || value > scale.most) continue;
      svg += line(kLeft, scale.y(value), kWidth - kRight, scale.y(value));
      svg += text(kLeft - 8, scale.y(value) + 4, "end", number(value, "%g"));
    }
  for (int i = 0; i <= 4; ++i) {
    const double step = std::round(1 + (scale.steps - 1) * i / 4);
    svg += line(scale.x(step), kTop, scale.x(step), kHeight - kBottom);
    svg += text(scale.x(step), kHeight - kBottom + 18, "middle", number(step, "%.0f"));
  }
  svg += polyline(losses, scale, "stroke=\"#9bbfe0\" stroke-width=\"1\"");
  svg += polyline(averages, scale, "stroke=\"#0b4f8a\" stroke-width=\"2\"");
  svg += text(kWidth / 2, kHeight - 12, "middle", "step");
  svg += text(kLeft, 24, "start",
              "Loss, the share of the noise that is left: every step, and averaged (last: " +
                  number(averages.empty() ? 0 : averages.back(), "%.4g") + ")");
  return svg + "</svg>\n";
}

}  // namespace kineograph::video

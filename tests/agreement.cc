#include "agreement.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace kineograph::testing {

double unit_roundoff(DType dtype) { return dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-23; }

namespace {

/// Distance from one value of a dtype to the next, at `magnitude`.
double spacing(DType dtype, double magnitude) {
  const int digits = dtype == DType::f32 ? 23 : dtype == DType::f16 ? 10 : 7;
  return std::ldexp(1.0, std::max(-24, std::ilogb(std::max(magnitude, 1e-30))) - digits);
}

/// Largest error of a computation. Rounding errors of a chain of products grow with the square root of what is
/// summed; every stage here (projections, two attentions, feed-forward, a layer at a time) adds one relative error of
/// the GEMM inputs' epsilon to a stream of the branch's size. The factor covers the peaked softmax of weights twice the
/// usual size, whose scores multiply the error they come with. Storing the output adds one spacing of its dtype.
double tolerance(const Computation& computation, double branch, double scale) {
  return 4.0 * unit_roundoff(computation.compute) * computation.stages * std::max(branch, 0.05 * scale) +
         1.01 * spacing(computation.output, scale);
}

}  // namespace

std::string disagreement(const Computation& computation, const Tensor& want, const Tensor& got) {
  const Tensor input = computation.input ? convert(computation.input, DType::f64) : Tensor();
  double branch = 0.0, scale = 0.0, error = 0.0;
  std::int64_t worst = 0;
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    const double y = want.data_as<double>()[i];
    if (std::isinf(y) && y == got.data_as<double>()[i]) continue;  // both beyond f16's range
    scale = std::max(scale, std::fabs(y));
    branch = std::max(branch, std::fabs(y - (input ? input.data_as<double>()[i] : 0.0)));
    const double off = std::fabs(y - got.data_as<double>()[i]);
    if (!std::isnan(error) && !(off <= error)) error = off, worst = i;
  }
  const double allowed = tolerance(computation, branch, scale);
  if (error <= allowed) return {};
  std::ostringstream text;
  text << "off by " << error << ", allowed " << allowed << "; element " << worst << ": want "
       << want.data_as<double>()[worst] << ", got " << got.data_as<double>()[worst];
  return text.str();
}

}  // namespace kineograph::testing

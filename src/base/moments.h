// Moments of values that arrive a run at a time.
#pragma once

namespace kineograph {

/// Count, mean and sum of squared deviations of a run of values.
struct Moments {
  double count = 0.0, mean = 0.0, m2 = 0.0;
};

/// Appends the run `b` to `a` (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
/// sample variances", 1979).
inline void append(Moments& a, const Moments& b) {
  if (b.count == 0.0) return;
  const double count = a.count + b.count, delta = b.mean - a.mean;
  a.mean += delta * b.count / count;
  a.m2 += b.m2 + delta * delta * a.count * b.count / count;
  a.count = count;
}

}  // namespace kineograph

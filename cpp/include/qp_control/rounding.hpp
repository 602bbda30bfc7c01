// What rounding does to the residuals of a point: nothing is claimed that only rounding makes true. The bounds are
// probabilistic: Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019.
#pragma once

#include <cmath>

#include "qp_control/linear_algebra.hpp"
#include "qp_control/pack.hpp"
#include "qp_control/settings.hpp"

namespace qp_control {

// Real: double for one problem, Pack for a pack of them.
template <class Real>
struct RoundingBounds {
  // The largest entry of H, and R = [A; C], `stored` rows.
  void load_matrices(int n, int stored, Real largest_of_H, const Real* R) {
    terms = n + stored;
    H_size = largest_of_H;
    row_size = max(Real(1.0), largest(long(stored) * n, R));
  }
  void load_gradient(int n, const Real* g) { g_size = largest(n, g); }

  // Whether it may have decided that a point is within the tolerances; sums of the entries of x and of z.
  auto matter(const Settings& settings, Real x_sum, Real z_sum) const {
    const Real unit = 5e-16 * std::sqrt(double(terms)), negligible = 0.5;
    const Real primal = row_size * x_sum, slope = H_size * x_sum + g_size;
    const auto residuals = unit * max(primal, slope + row_size * z_sum) > negligible * Real(settings.eps_abs);
    const auto gap = unit * (x_sum * slope + z_sum * primal) > negligible * Real(settings.eps_gap);
    return residuals | (gap & (Real(settings.eps_gap) > Real(0.0)));
  }

  int terms = 0;
  Real H_size, g_size, row_size;  // largest entries, of [R; I] the last

  static double largest(long size, const double* entries) { return norm_inf(ConstVectorMap(entries, size)); }
  static Pack largest(long size, const Pack* entries) {
    Pack out = 0.0;
    for (long k = 0; k < size; ++k) out = max(out, abs(entries[k]));
    return out;
  }
};

}  // namespace qp_control

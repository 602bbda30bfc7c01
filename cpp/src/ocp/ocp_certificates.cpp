#include "qp_control/ocp_certificates.hpp"

#include <algorithm>
#include <cmath>

#include "qp_control/ocp_residuals.hpp"
#include "qp_control/ocp_slacks.hpp"

namespace qp_control {
namespace {

using Real = long double;
constexpr double exact_ray = 1e-11;  // violation, relative to the entries of a row

// The product of a row with a vector in two parts, and the row's largest entry.
struct Row {
  Real value = 0, size = 0;
  void add(const double* a, int count, int stride, const double* v) {
    for (int j = 0; j < count && a != nullptr; ++j) {
      value += Real(a[j * stride]) * v[j];
      size = std::max(size, std::abs(Real(a[j * stride])));
    }
  }
  // Row i of (M + M') / 2.
  void add_symmetric(const double* M, int i, int n, const double* v) {
    for (int j = 0; j < n && M != nullptr; ++j) {
      const Real entry = (Real(M[i * n + j]) + M[j * n + i]) / 2;
      value += entry * v[j];
      size = std::max(size, std::abs(entry));
    }
  }
  bool vanishes(Real unit) const { return std::abs(value) <= exact_ray * unit * size; }
};

const double* part(const double* a, long offset) { return a == nullptr ? nullptr : a + offset; }

}  // namespace

bool is_ocp_ray(const OcpBatch& problem, const OcpElement& ray) {
  const auto [N, nx, nu, rows, terminal_rows] = problem.dims;
  Real size = 0, slope = 0, slope_size = 0;
  for (const auto* a : {&ray.x, &ray.u})
    for (double entry : *a) size = std::max(size, std::abs(Real(entry)));
  if (!(size > 0) || !std::isfinite(size)) return false;

  bool inside = true;
  const auto stays = [&](const Row& row, const double* lower, const double* upper, int i) {
    const Real least = exact_ray * size * row.size;
    if (upper != nullptr && upper[i] < infinite_bound && row.value > least) inside = false;
    if (lower != nullptr && lower[i] > -infinite_bound && -row.value > least) inside = false;
  };
  const auto falls = [&](const double* g, const double* d, int count) {
    for (int j = 0; j < count && g != nullptr; ++j) {
      slope += Real(g[j]) * d[j];
      slope_size = std::max(slope_size, std::abs(Real(g[j])));
    }
  };
  const double one = 1.0;
  for (int k = 0; k <= N && inside; ++k) {
    const bool ends = k == N, has_box = k > 0 || !problem.fixed_start();
    const double *x = ray.x.data() + k * nx, *u = ends ? nullptr : ray.u.data() + k * nu, *next = x + nx;
    const double* S = ends ? nullptr : problem.S.at(0, k);
    falls(problem.state_slope(k).at(0, k), x, nx);
    if (!ends) falls(problem.r.at(0, k), u, nu);
    for (int i = 0; i < nx; ++i) {
      Row curvature;
      curvature.add_symmetric(problem.state_cost(k).at(0, k), i, nx, x);
      if (!ends) curvature.add(part(S, i), nu, nx, u);
      inside = inside && curvature.vanishes(size);
      Row box;
      box.add(&one, 1, 1, x + i);
      if (has_box)
        stays(box, problem.x_lower.at(0, k), problem.x_upper.at(0, k), i);
      else
        inside = inside && box.vanishes(size);
      if (ends) continue;
      Row gap;
      gap.add(problem.A.at(0, k) + i * nx, nx, 1, x);
      gap.add(problem.B.at(0, k) + i * nu, nu, 1, u);
      gap.value -= next[i];
      gap.size = std::max(gap.size, Real(1));
      inside = inside && gap.vanishes(size);
    }
    for (int i = 0; i < nu && !ends; ++i) {
      Row curvature, box;
      curvature.add_symmetric(problem.R.at(0, k), i, nu, u);
      curvature.add(part(S, i * nx), nx, 1, x);
      inside = inside && curvature.vanishes(size);
      box.add(&one, 1, 1, u + i);
      stays(box, problem.u_lower.at(0, k), problem.u_upper.at(0, k), i);
    }
    for (int i = 0; i < problem.dims.rows_of(k); ++i) {
      Row row;
      row.add(part((ends ? problem.C_N : problem.C).at(0, k), i * nx), nx, 1, x);
      if (!ends) row.add(part(problem.D.at(0, k), i * nu), nu, 1, u);
      const double* lower = (ends ? problem.lower_N : problem.lower).at(0, k);
      const double* upper = (ends ? problem.upper_N : problem.upper).at(0, k);
      const SlackWeights weights(problem.linear(k).at(0, k), problem.quadratic(k).at(0, k), i);
      // Slacks may follow, but at a cost.
      if (problem.softens(k) && weights.soft() && weights.quadratic == 0.0) {
        const Real above = upper != nullptr && upper[i] < infinite_bound ? row.value : Real(0);
        const Real below = lower != nullptr && lower[i] > -infinite_bound ? -row.value : Real(0);
        slope += weights.linear * std::max({above, below, Real(0)});
        slope_size = std::max(slope_size, Real(weights.linear));
      } else {
        stays(row, lower, upper, i);
      }
    }
  }
  return inside && slope < -1e-9 * size * slope_size;
}

bool is_ocp_farkas(const OcpBatch& problem, OcpElement& proof, double size, OcpGradientRoom& room) {
  // Without a cost and at zero the gradient is that of the multipliers alone, and the gap the support function.
  const Residuals r = ocp_residuals(without_cost(problem), 0, proof.arrays(), room);
  return r.gap < 0.0 && -r.gap > 1e6 * r.dual * std::max(1.0, size);
}

}  // namespace qp_control

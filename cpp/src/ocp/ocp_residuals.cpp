#include "qp_control/ocp_residuals.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/ocp_slacks.hpp"

namespace qp_control {
namespace {

using Real = long double;
constexpr double infinity = std::numeric_limits<double>::infinity();

// Zero where there is no array.
double entry(const double* a, long k) { return a == nullptr ? 0.0 : a[k]; }

struct Tally {
  Residuals out;
  Real cost = 0, slope = 0, bounds = 0;

  static void raise(double& largest, Real value) {
    if (!(value <= largest) && !std::isnan(largest)) largest = double(value);
  }

  void row(Real v, double z, double lower, double upper) {
    raise(out.primal, v - upper);
    raise(out.primal, lower - v);
    raise(out.primal_scale, std::abs(v));
    if (z == 0.0) return;
    const double bound = z > 0.0 ? upper : lower;
    raise(out.complementarity, std::min(Real(std::abs(z)), std::abs(v - bound)));
    if (std::isfinite(bound)) bounds += Real(bound) * z;
  }
  // A slack and what the cost and its row, with the multiplier z of the slack's sign, leave to its bound.
  void slack(Real s, const SlackWeights& weights, Real z) {
    const Real force = weights.linear + weights.quadratic * s - z;
    cost += weights.quadratic * s * s / 2;
    slope += weights.linear * s;
    raise(out.primal, -s);
    raise(out.dual, -force);
    for (const Real term : {Real(weights.linear), weights.quadratic * s, z}) raise(out.dual_scale, std::abs(term));
    raise(out.complementarity, std::min(std::abs(force), std::abs(s)));
  }
  void equality(Real residual, Real scale) {
    raise(out.primal, std::abs(residual));
    raise(out.primal_scale, scale);
  }
};

}  // namespace

Residuals ocp_residuals(const OcpBatch& batch, int i, const OcpBatchSolution& s, OcpGradientRoom& room) {
  const auto [N, nx, nu, rows, terminal_rows] = batch.dims;
  Tally tally;
  auto& [gradient_x, gradient_u, size_x, size_u] = room;
  const auto bound = [](const double* a, long k, double missing) {
    return a == nullptr || std::abs(a[k]) >= infinite_bound ? missing : a[k];
  };
  for (int k = 0; k <= N; ++k) {
    const bool ends = k == N, has_box = k > 0 || !batch.fixed_start();
    const double *x = s.x.at(i) + k * nx, *u = ends ? nullptr : s.u.at(i) + k * nu;
    const double *y = s.y.at(i) + k * nx, *next_x = x + nx, *next_y = y + nx;
    const auto add = [](std::vector<Real>& to, std::vector<Real>& size, int j, Real term) {
      to[j] += term;
      size[j] = std::max(size[j], std::abs(term));
    };
    for (auto* v : {&gradient_x, &gradient_u, &size_x, &size_u}) std::fill(v->begin(), v->end(), Real(0));
    const double *Q = batch.state_cost(k).at(i, k), *q = batch.state_slope(k).at(i, k);
    for (int a = 0; a < nx; ++a) {
      Real Qx = 0;
      for (int j = 0; j < nx; ++j) Qx += Real(0.5) * (Real(entry(Q, a * nx + j)) + entry(Q, j * nx + a)) * x[j];
      add(gradient_x, size_x, a, Qx);
      add(gradient_x, size_x, a, entry(q, a));
      if (k > 0 || batch.fixed_start()) add(gradient_x, size_x, a, -Real(y[a]));
      tally.cost += Qx * x[a] / 2;
      tally.slope += Real(entry(q, a)) * x[a];
    }
    if (k == 0 && batch.fixed_start()) {
      const double* x0 = batch.x0.at(i, 0);
      for (int a = 0; a < nx; ++a) {
        tally.equality(Real(x0[a]) - x[a], std::abs(x0[a]));
        tally.bounds -= Real(x0[a]) * y[a];
      }
    }
    if (!ends) {
      const double *R = batch.R.at(i, k), *S = batch.S.at(i, k), *r = batch.r.at(i, k);
      for (int a = 0; a < nu; ++a) {
        Real Ru = 0, Sx = 0;
        for (int j = 0; j < nu; ++j) Ru += Real(0.5) * (Real(entry(R, a * nu + j)) + entry(R, j * nu + a)) * u[j];
        for (int j = 0; j < nx; ++j) {
          Sx += Real(entry(S, a * nx + j)) * x[j];
          add(gradient_x, size_x, j, Real(entry(S, a * nx + j)) * u[a]);
        }
        add(gradient_u, size_u, a, Ru + Sx);
        add(gradient_u, size_u, a, entry(r, a));
        tally.cost += (Ru / 2 + Sx) * u[a];
        tally.slope += Real(entry(r, a)) * u[a];
      }
      const double *A = batch.A.at(i, k), *B = batch.B.at(i, k), *c = batch.c.at(i, k);
      for (int a = 0; a < nx; ++a) {
        Real forward = entry(c, a), scale = std::abs(Real(next_x[a]));
        for (int j = 0; j < nx; ++j) {
          forward += Real(entry(A, a * nx + j)) * x[j];
          add(gradient_x, size_x, j, Real(entry(A, a * nx + j)) * next_y[a]);
        }
        for (int j = 0; j < nu; ++j) {
          forward += Real(entry(B, a * nu + j)) * u[j];
          add(gradient_u, size_u, j, Real(entry(B, a * nu + j)) * next_y[a]);
        }
        tally.equality(forward - next_x[a], scale);
        tally.bounds -= Real(entry(c, a)) * next_y[a];
      }
    }
    const int count = batch.dims.rows_of(k);
    const double *C = (ends ? batch.C_N : batch.C).at(i, k), *D = ends ? nullptr : batch.D.at(i, k);
    const double* low = (ends ? batch.lower_N : batch.lower).at(i, k);
    const double* high = (ends ? batch.upper_N : batch.upper).at(i, k);
    const auto slacks_of = [&](const MutableBatchArray& stages, const MutableBatchArray& terminal) {
      const double* from = (ends ? terminal : stages).at(i);
      return from == nullptr || ends ? from : from + k * rows;
    };
    const double* slack_lower = slacks_of(s.slack_lower, s.slack_lower_N);
    const double* slack_upper = slacks_of(s.slack_upper, s.slack_upper_N);
    const double* z = ends ? s.z_N.at(i) : s.z.at(i) == nullptr ? nullptr : s.z.at(i) + k * rows;
    for (int a = 0; a < count; ++a) {
      Real v = 0;
      for (int j = 0; j < nx; ++j) {
        v += Real(entry(C, a * nx + j)) * x[j];
        add(gradient_x, size_x, j, Real(entry(C, a * nx + j)) * entry(z, a));
      }
      for (int j = 0; j < nu && !ends; ++j) {
        v += Real(entry(D, a * nu + j)) * u[j];
        add(gradient_u, size_u, j, Real(entry(D, a * nu + j)) * entry(z, a));
      }
      const SlackWeights weights(batch.linear(k).at(i, k), batch.quadratic(k).at(i, k), a);
      if (batch.softens(k) && weights.soft()) {
        v += Real(entry(slack_lower, a)) - entry(slack_upper, a);
        tally.slack(entry(slack_lower, a), weights, -Real(entry(z, a)));
        tally.slack(entry(slack_upper, a), weights, entry(z, a));
      }
      tally.row(v, entry(z, a), bound(low, a, -infinity), bound(high, a, infinity));
    }
    const auto box = [&](const StageArray& l, const StageArray& h, const MutableBatchArray& w, int size,
                         const double* point, std::vector<Real>& to, std::vector<Real>& scale) {
      if (l.data == nullptr && h.data == nullptr) return;  // its multipliers may not have been written yet
      for (int a = 0; a < size; ++a) {
        const double multiplier = w.data == nullptr ? 0.0 : w.at(i)[k * size + a];
        add(to, scale, a, multiplier);
        tally.row(point[a], multiplier, bound(l.at(i, k), a, -infinity), bound(h.at(i, k), a, infinity));
      }
    };
    if (has_box) box(batch.x_lower, batch.x_upper, s.w_x, nx, x, gradient_x, size_x);
    if (!ends) box(batch.u_lower, batch.u_upper, s.w_u, nu, u, gradient_u, size_u);
    for (int a = 0; a < nx; ++a) {
      Tally::raise(tally.out.dual, std::abs(gradient_x[a]));
      Tally::raise(tally.out.dual_scale, size_x[a]);
    }
    for (int a = 0; a < nu && !ends; ++a) {
      Tally::raise(tally.out.dual, std::abs(gradient_u[a]));
      Tally::raise(tally.out.dual_scale, size_u[a]);
    }
  }
  // x'Hx + g'x plus the bounds and the dynamics' constants, each times its multiplier.
  tally.out.objective = double(tally.cost + tally.slope);
  tally.out.gap = double(2 * tally.cost + tally.slope + tally.bounds);
  return tally.out;
}

}  // namespace qp_control

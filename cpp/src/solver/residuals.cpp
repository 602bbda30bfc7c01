#include "qp_control/residuals.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace qp_control {

bool Residuals::within(const Settings& settings) const {
  const double eps_primal = settings.eps_abs + settings.eps_rel * primal_scale;
  const double eps_dual = settings.eps_abs + settings.eps_rel * dual_scale;
  return primal <= eps_primal && complementarity <= std::max(eps_primal, eps_dual) && dual <= eps_dual &&
         (settings.eps_gap <= 0.0 || std::abs(gap) <= settings.eps_gap) && std::isfinite(objective);
}

namespace {

// Collects what the rows and the variables contribute.
template <class Real>
class Tally {
 public:
  void row(Real v, Real z, double lower, double upper) {
    raise(out_.primal, v - upper);
    raise(out_.primal, lower - v);
    raise(out_.primal_scale, std::abs(v));
    if (z == 0) return;
    const double bound = z > 0 ? upper : lower;
    raise(out_.complementarity, std::min(std::abs(z), std::abs(v - bound)));
    if (std::isfinite(bound)) gap_ += bound * z;
  }

  void variable(Real x, Real g, Real Hx, Real Rz) {
    raise(out_.dual, std::abs(Hx + g + Rz));
    raise(out_.dual_scale, std::max({std::abs(Hx), std::abs(g), std::abs(Rz)}));
    curvature_ += x * Hx;
    linear_ += x * g;
  }

  Residuals finish() {
    out_.objective = double(curvature_ / 2 + linear_);
    out_.gap = double(gap_ + curvature_ + linear_);
    return out_;
  }

 private:
  // NaN stays.
  static void raise(double& largest, Real value) {
    if (!(value <= largest) && !std::isnan(largest)) largest = double(value);
  }

  Residuals out_;
  Real curvature_ = 0, linear_ = 0, gap_ = 0;
};

}  // namespace

Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z) {
  Products work(qp.n(), qp.rows());
  return residuals(qp, x, z, work);
}

Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z, Products& work) {
  auto& [v, Hx, Rz] = work;
  Rz.setZero();
  qp.apply_rows(x, v);
  qp.apply_hessian(x, Hx);
  qp.add_rows_transposed(z, Rz);
  Tally<double> tally;
  for (int i = 0; i < qp.rows(); ++i) tally.row(v[i], z[i], qp.lower[i], qp.upper[i]);
  for (int j = 0; j < qp.n(); ++j) tally.variable(x[j], qp.g[j], Hx[j], Rz[j]);
  return tally.finish();
}

Residuals precise_residuals(const StackedQP& qp, const Vector& x, const Vector& z) {
  using Real = long double;
  const int n = qp.n(), stored = qp.stored_rows();
  Tally<Real> tally;
  for (int i = 0; i < stored; ++i) {
    Real v = 0;
    for (int j = 0; j < n; ++j) v += Real(qp.R(i, j)) * x[j];
    tally.row(v, z[i], qp.lower[i], qp.upper[i]);
  }
  for (int j = 0; j < n; ++j) {
    tally.row(x[j], z[stored + j], qp.lower[stored + j], qp.upper[stored + j]);
    Real Hx = 0, Rz = z[stored + j];
    for (int i = 0; i < n && !qp.linear_program; ++i) Hx += Real(qp.H(i, j)) * x[i];
    for (int i = 0; i < stored; ++i)
      if (z[i] != 0.0) Rz += Real(qp.R(i, j)) * z[i];
    tally.variable(x[j], qp.g[j], Hx, Rz);
  }
  return tally.finish();
}

namespace {

constexpr double small = 1e-3;  // dual residual beside H x, g and R'z: a point with more than that is no solution

// A bound on what rounding makes of the dual residual: Higham, "Accuracy and Stability of Numerical Algorithms", 3.1.
double rounding_of_dual(const StackedQP& qp, const Vector& x, const Vector& z) {
  constexpr double unit = 1.2e-16;
  const int n = qp.n(), stored = qp.stored_rows();
  double largest = 0.0;
  for (int j = 0; j < n; ++j) {
    double terms = std::abs(qp.g[j]) + std::abs(z[stored + j]);
    if (qp.diagonal)
      terms += std::abs(qp.H(j, j) * x[j]);
    else
      terms += qp.H.col(j).cwiseAbs().dot(x.cwiseAbs());
    terms += qp.R.col(j).cwiseAbs().dot(z.head(stored).cwiseAbs());
    largest = std::max(largest, terms);
  }
  return unit * (n + stored) * largest;
}

}  // namespace

bool within_reduced(Residuals r, const Settings& settings, const StackedQP& qp, const Vector& x, const Vector& z) {
  const Settings reduced = settings.reduced();
  if (r.within(reduced)) return true;
  if (!settings.reducible() || !std::isfinite(r.dual)) return false;
  const double dual = std::exchange(r.dual, 0.0);
  return r.within(reduced) && dual <= small * r.dual_scale && dual <= rounding_of_dual(qp, x, z);
}

bool close_gap(const StackedQP& qp, const Settings& settings, const Vector& x, Vector& z, Residuals& r) {
  constexpr double unit = 1.2e-16;
  Settings without_gap = settings;
  without_gap.eps_gap = 0.0;
  if (!r.within(without_gap)) return false;
  int chosen = -1;
  double least = settings.eps_abs - r.dual;
  for (int i = 0; i < qp.rows(); ++i) {
    const double bound = z[i] > 0.0 ? qp.upper[i] : qp.lower[i];
    if (z[i] == 0.0 || bound == 0.0 || !std::isfinite(bound)) continue;
    const double change = r.gap / bound, row_size = i < qp.stored_rows() ? norm_inf(qp.R.row(i)) : 1.0;
    const bool fine_enough = unit * std::abs(z[i] * bound) < 0.1 * settings.eps_gap;
    const bool keeps_its_sign = qp.is_equality(i) || std::abs(change) < 0.1 * std::abs(z[i]);
    if (!fine_enough || !keeps_its_sign || !(std::abs(change) * row_size < least)) continue;
    least = std::abs(change) * row_size;
    chosen = i;
  }
  if (chosen < 0) return false;
  const double before = z[chosen], bound = before > 0.0 ? qp.upper[chosen] : qp.lower[chosen];
  z[chosen] -= r.gap / bound;
  const Residuals now = precise_residuals(qp, x, z);
  if (!now.within(settings)) {
    z[chosen] = before;
    return false;
  }
  r = now;
  return true;
}

}  // namespace qp_control

#include "qp_control/residuals.hpp"

#include <algorithm>
#include <cmath>

namespace qp_control {

bool Residuals::within(const Settings& settings) const {
  const double eps_primal = settings.eps_abs + settings.eps_rel * primal_scale;
  const double eps_dual = settings.eps_abs + settings.eps_rel * dual_scale;
  return primal <= eps_primal && complementarity <= std::max(eps_primal, eps_dual) && dual <= eps_dual &&
         (settings.eps_gap <= 0.0 || gap <= settings.eps_gap) && std::isfinite(objective);
}

Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z) {
  Products work(qp.n(), qp.rows());
  return residuals(qp, x, z, work);
}

Residuals residuals(const StackedQP& qp, const Vector& x, const Vector& z, Products& work) {
  Residuals out;
  auto& [v, Hx, Rz] = work;
  Rz.setZero();
  qp.apply_rows(x, v);
  if (qp.linear_program)
    Hx.setZero();
  else
    Hx.noalias() = qp.H * x;
  qp.add_rows_transposed(z, Rz);
  const double curvature = x.dot(Hx), linear = qp.g.dot(x);
  out.objective = 0.5 * curvature + linear;
  out.gap = curvature + linear;
  out.primal_scale = norm_inf(v);
  out.dual_scale = std::max({norm_inf(Hx), norm_inf(qp.g), norm_inf(Rz)});
  Hx += qp.g + Rz;
  out.dual = norm_inf(Hx);
  for (int i = 0; i < qp.rows(); ++i) {
    const double violation = std::max({0.0, v[i] - qp.upper[i], qp.lower[i] - v[i]});
    if (!(violation <= out.primal)) out.primal = violation;
    if (z[i] == 0.0) continue;
    const double bound = z[i] > 0.0 ? qp.upper[i] : qp.lower[i];
    const double wrong = std::min(std::abs(z[i]), std::abs(v[i] - bound));
    if (!(wrong <= out.complementarity)) out.complementarity = wrong;
    if (std::isfinite(bound)) out.gap += bound * z[i];
  }
  out.gap = std::abs(out.gap);
  return out;
}

}  // namespace qp_control

#include "qp_control/active_set.hpp"

#include <cmath>
#include <utility>

namespace qp_control {

std::vector<int> active_rows(const StackedQP& qp, const Vector& z) {
  std::vector<int> active(qp.rows());
  for (int i = 0; i < qp.rows(); ++i) {
    if (qp.is_equality(i))
      active[i] = z[i] < 0.0 ? -1 : 1;
    else if (z[i] > 0.0 && std::isfinite(qp.upper[i]))
      active[i] = 1;
    else if (z[i] < 0.0 && std::isfinite(qp.lower[i]))
      active[i] = -1;
  }
  return active;
}

std::vector<int> active_rows(const StackedQP& qp, const Vector& x, const Vector& z) {
  std::vector<int> active = active_rows(qp, z);
  Vector v(qp.rows());
  qp.apply_rows(x, v);
  const auto meets = [&](int i, double bound) {
    return std::isfinite(bound) && std::abs(v[i] - bound) <= meets_bound * (1.0 + std::abs(bound));
  };
  for (int i = 0; i < qp.rows(); ++i) {
    const bool upper = meets(i, qp.upper[i]), lower = meets(i, qp.lower[i]);
    if (upper != lower) active[i] = upper ? 1 : -1;  // also where rounding has given z the wrong sign
  }
  return active;
}

void set_active_system(const StackedQP& qp, const std::vector<int>& active, ActiveSystem& system,
                       std::vector<int>& order) {
  const int stored = qp.stored_rows();
  std::vector<int> fixed;
  order.clear();
  for (int i = 0; i < stored; ++i)
    if (active[i] != 0) order.push_back(i);
  for (int i = stored; i < qp.rows(); ++i)
    if (active[i] != 0) fixed.push_back(i - stored);
  RowMatrix rows(order.size(), qp.n());
  for (std::size_t k = 0; k < order.size(); ++k) rows.row(k) = qp.R.row(order[k]);
  system.set(qp.H, std::move(rows), std::move(fixed));
}

bool polish(const StackedQP& qp, const std::vector<int>& active, Vector& x, Vector& z, double enough) {
  ActiveSystem system(qp.n());
  std::vector<int> order;
  set_active_system(qp, active, system, order);
  if (!system.factor()) return false;
  ActiveVector rhs = system.zero(), s = system.zero();
  rhs.x = -qp.g;
  s.x = x;
  const auto bound = [&](int i) { return active[i] > 0 ? qp.upper[i] : qp.lower[i]; };
  for (std::size_t k = 0; k < order.size(); ++k) {
    rhs.rows[k] = bound(order[k]);
    s.rows[k] = z[order[k]];
  }
  const auto& fixed = system.fixed();
  for (std::size_t k = 0; k < fixed.size(); ++k) {
    rhs.fixed[k] = bound(qp.stored_rows() + fixed[k]);
    s.fixed[k] = z[qp.stored_rows() + fixed[k]];
  }
  system.refine(rhs, s, enough);
  x = s.x;
  z.setZero();
  for (std::size_t k = 0; k < order.size(); ++k) z[order[k]] = s.rows[k];
  for (std::size_t k = 0; k < fixed.size(); ++k) z[qp.stored_rows() + fixed[k]] = s.fixed[k];
  return x.allFinite() && z.allFinite();
}

}  // namespace qp_control

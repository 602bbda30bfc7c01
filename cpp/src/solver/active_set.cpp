#include "qp_control/active_set.hpp"

#include <cmath>

namespace qp_control {

void active_rows(const StackedQP& qp, const Vector& z, std::vector<int>& active) {
  active.assign(qp.rows(), 0);
  for (int i = 0; i < qp.rows(); ++i) {
    if (qp.is_equality(i))
      active[i] = z[i] < 0.0 ? -1 : 1;
    else if (z[i] > 0.0 && std::isfinite(qp.upper[i]))
      active[i] = 1;
    else if (z[i] < 0.0 && std::isfinite(qp.lower[i]))
      active[i] = -1;
  }
}

std::vector<int> active_rows(const StackedQP& qp, const Vector& x, const Vector& z) {
  std::vector<int> active;
  active_rows(qp, z, active);
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
  order.clear();
  for (int i = 0; i < qp.rows(); ++i)
    if (active[i] != 0) order.push_back(i);
  system.set(qp.H, qp.R, order, qp.diagonal);
  order.resize(system.row_count());
}

Polish::Polish(int n, int stored_rows) : system_(n) {
  system_.reserve(stored_rows);
  order_.reserve(stored_rows + n);
  for (ActiveVector* v : {&rhs_, &s_}) v->reserve(n, stored_rows);
}

bool Polish::run(const StackedQP& qp, const std::vector<int>& active, Vector& x, Vector& z, double enough) {
  auto &rhs = rhs_, &s = s_;
  const auto& order = order_;
  set_active_system(qp, active, system_, order_);
  if (!system_.factor()) return false;
  for (ActiveVector* v : {&rhs, &s}) system_.set_zero(*v);
  rhs.x = -qp.g;
  s.x = x;
  const auto bound = [&](int i) { return active[i] > 0 ? qp.upper[i] : qp.lower[i]; };
  for (std::size_t k = 0; k < order.size(); ++k) {
    rhs.rows[k] = bound(order[k]);
    s.rows[k] = z[order[k]];
  }
  const auto& fixed = system_.fixed();
  for (std::size_t k = 0; k < fixed.size(); ++k) {
    rhs.fixed[k] = bound(qp.stored_rows() + fixed[k]);
    s.fixed[k] = z[qp.stored_rows() + fixed[k]];
  }
  system_.refine(rhs, s, enough);
  x = s.x;
  z.setZero();
  for (std::size_t k = 0; k < order.size(); ++k) z[order[k]] = s.rows[k];
  for (std::size_t k = 0; k < fixed.size(); ++k) z[qp.stored_rows() + fixed[k]] = s.fixed[k];
  return x.allFinite() && z.allFinite();
}

}  // namespace qp_control

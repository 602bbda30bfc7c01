// From multipliers to the active rows, their KKT system, and the exact solution on them.
#pragma once

#include <vector>

#include "qp_control/active_system.hpp"
#include "qp_control/dense_qp.hpp"

namespace qp_control {

// At a solution a row meets a bound that is no further away than this, relative to 1 + |bound|.
constexpr double meets_bound = 1e-9;

// Rows that the multipliers call active: +1 at the upper bound, -1 at the lower bound, 0 inactive; equalities by sign.
void active_rows(const StackedQP& qp, const Vector& z, std::vector<int>& active);
// The same at a solution, where every row that meets a bound is active, whatever its multiplier (weakly active rows).
std::vector<int> active_rows(const StackedQP& qp, const Vector& x, const Vector& z);
// The same of one row per lane, equilibrated: v = R x, `unit` its scale, a power of two that has rounded nothing.
inline Pack active_side(Pack lower, Pack upper, Pack unit, Pack v, Pack z) {
  const Pack zero = 0.0, one = 1.0;
  const auto meets = [&](Pack bound) {
    return finite(bound) & (abs(v - bound) <= Pack(meets_bound) * (unit + abs(bound)));
  };
  const Mask at_upper = meets(upper), at_lower = meets(lower);
  Pack side = select(((z > zero) & finite(upper)) | (lower == upper), one, zero);
  side = select((z < zero) & finite(lower), Pack(-1.0), side);
  return select(at_upper ^ at_lower, select(at_upper, one, Pack(-1.0)), side);
}
// Of the rows that have a multiplier, the set to start from again: of those that the solver has held, the multiplier
// may be rounding, whose sign tells nothing, and with every row that meets a bound there can be far too many.
inline Pack held_side(Pack lower, Pack upper, Pack unit, Pack v, Pack z) {
  return select(z != Pack(0.0), active_side(lower, upper, unit, v, z), 0.0);
}

// The KKT system of that active set; `order` receives the stacked row of each of the system's rows.
void set_active_system(const StackedQP& qp, const std::vector<int>& active, ActiveSystem& system,
                       std::vector<int>& order);

// Takes a point to the exact solution of the equalities that the active rows make.
class Polish {
 public:
  Polish(int n, int stored_rows);

  // False: the system cannot be factored. enough: relative residual that ends the refinement.
  bool run(const StackedQP& qp, const std::vector<int>& active, Vector& x, Vector& z, double enough = 1e-15);

 private:
  ActiveSystem system_;
  std::vector<int> order_;
  ActiveVector rhs_, s_;
};

}  // namespace qp_control

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

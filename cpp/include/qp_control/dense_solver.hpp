// Solves one dense QP: augmented Lagrangian, polish on the active set, certificates, closest feasible problem.
#pragma once

#include <vector>

#include "qp_control/active_system.hpp"
#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/residuals.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

// Rows that the multipliers call active: +1 at the upper bound, -1 at the lower bound, 0 inactive; equalities by sign.
std::vector<int> active_rows(const StackedQP& qp, const Vector& z);
// The same at a solution, where every row that meets a bound is active, whatever its multiplier (weakly active rows).
std::vector<int> active_rows(const StackedQP& qp, const Vector& x, const Vector& z);
// The KKT system of that active set; `order` receives the stacked row of each of the system's rows.
void set_active_system(const StackedQP& qp, const std::vector<int>& active, ActiveSystem& system,
                       std::vector<int>& order);

struct Minimiser;

// A workspace for problems of one size: made once per thread, used for many problems.
class DenseSolver {
 public:
  explicit DenseSolver(DenseDims dims);

  // solution.x and .z hold the starting point when warm is true.
  void solve(const DenseQP& problem, const Settings& settings, bool warm, Solution& solution);

 private:
  void certify(const Minimiser& minimiser, Solution& solution);
  void certify_crossed(Solution& solution) const;
  void solve_closest(const Minimiser& minimiser, bool crossed, Solution& solution);
  bool certify_hard_rows(const Minimiser& minimiser, Solution& solution) const;

  StackedQP qp_;
};

}  // namespace qp_control

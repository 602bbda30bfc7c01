// Solves one dense QP: augmented Lagrangian, polish on the active set, certificates, closest feasible problem.
#pragma once

#include "qp_control/deadline.hpp"
#include "qp_control/dense_qp.hpp"
#include "qp_control/minimise.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

// A workspace for problems of one size: made once per thread, used for many problems.
class DenseSolver {
 public:
  explicit DenseSolver(DenseDims dims);

  // solution.x and .z hold the starting point when warm is true.
  void solve(const DenseQP& problem, const Settings& settings, const Deadline& deadline, bool warm, Solution& solution);

 private:
  void certify(const Settings& settings, const Deadline& deadline, Solution& solution);
  void certify_crossed(Solution& solution) const;
  void solve_closest(const Settings& settings, const Deadline& deadline, bool crossed, Solution& solution);
  bool certify_hard_rows(const Settings& settings, const Deadline& deadline, Solution& solution) const;

  StackedQP qp_;
  Minimiser minimiser_;
  Vector x_start_, z_start_;
};

}  // namespace qp_control

// What the solver says of one problem.
#pragma once

#include "qp_control/linear_algebra.hpp"
#include "qp_control/status.hpp"

namespace qp_control {

// Multipliers and row-sized arrays are in the order of StackedQP: equalities, inequalities, box.
struct Solution {
  Solution(int n, int rows)
      : x(n), z(rows), active(rows), shift_lower(rows), shift_upper(rows), certificate_x(n), certificate_z(rows) {
    clear();
  }
  void clear();

  Vector x, z;
  Vector active;  // 1: held at the upper bound, -1: at the lower one, 0: multiplier zero
  // bound_lower - shift_lower <= row x <= bound_upper + shift_upper; of an equality the shift is upper minus lower.
  Vector shift_lower, shift_upper;
  Vector certificate_x, certificate_z;  // NaN where there is none
  Status status = Status::NUMERICAL_ERROR;
  int iterations = 0;
  double objective = 0.0, primal_residual = 0.0, dual_residual = 0.0, duality_gap = 0.0;
};

}  // namespace qp_control

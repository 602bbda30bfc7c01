// What the solver says of one problem.
#pragma once

#include "qp_control/linear_algebra.hpp"

namespace qp_control {

enum class Status : int {
  SOLVED = 0,             // residuals below the tolerance, checked on the caller's data
  CLOSEST_FEASIBLE = 1,   // the constraints contradict each other: solution of the least shifted problem
  MAX_ITER = 2,           // best point so far; also where rounding keeps the tolerance out of reach
  TIME_LIMIT = 3,         // best point so far
  PRIMAL_INFEASIBLE = 4,  // certificate_{y,z,w}: A'y + C'z + w = 0 and b'y + u'z+ + l'z- + ub'w+ + lb'w- < 0; all zero
                          // where a pair of bounds crosses, which proves it
  DUAL_INFEASIBLE = 5,    // certificate_x: a ray along which the objective falls for ever
  NON_CONVEX = 6,         // H has a negative eigenvalue
  INVALID_INPUT = 7,      // NaN, an infinity where none may be, a weight that is not positive
  NUMERICAL_ERROR = 8,    // overflow, or a factorisation failed
};

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

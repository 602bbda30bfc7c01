// How a solve has ended.
#pragma once

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

inline bool has_solution(Status status) { return status == Status::SOLVED || status == Status::CLOSEST_FEASIBLE; }

}  // namespace qp_control

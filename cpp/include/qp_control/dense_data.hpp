// The problem, with its letters and signs:
//
//     minimise    1/2 x'H x + g'x
//     subject to  A x = b              (y)      n_eq rows
//                 l <= C x <= u        (z)      n_in rows, entries may be -inf / +inf, l_i = u_i allowed
//                 lb <= x <= ub        (w)      box
//
//     H x + g + A'y + C'z + w = 0;   z_i > 0: upper bound active, z_i < 0: lower bound active (same for w).
//
// H is symmetric positive semidefinite; H = 0 is a linear program.
#pragma once

namespace qp_control {

struct DenseDims {
  int n = 0;     // variables
  int n_eq = 0;  // rows of A
  int n_in = 0;  // rows of C
  int rows() const { return n_eq + n_in + n; }
};

// One problem as the caller holds it: borrowed row-major arrays, nullptr where absent: H and g are then 0, bounds
// infinite, weights 1. A, b and C must be there where they have rows, else the status is INVALID_INPUT.
struct DenseQP {
  DenseDims dims;
  const double* H = nullptr;
  const double* g = nullptr;
  const double* A = nullptr;
  const double* b = nullptr;
  const double* C = nullptr;
  const double* l = nullptr;
  const double* u = nullptr;
  const double* lb = nullptr;
  const double* ub = nullptr;
  // Weights of the shifts in the closest feasible problem, infinity = never shifted.
  const double* weight_eq = nullptr;
  const double* weight_in = nullptr;
  const double* weight_box = nullptr;
};

}  // namespace qp_control

// From a solution and the solution of its adjoint system to the gradients of the data (derivatives.hpp), stage by
// stage.
#pragma once

#include "qp_control/ocp_layout.hpp"
#include "qp_control/ocp_slacks.hpp"
#include "qp_control/ocp_solution.hpp"

namespace qp_control {

// The gradient of one argument: of stage k of element i at data + i * batch + (k - first) * stage, as StageArray,
// nullptr before the first; what stages or elements share is added up, so it must begin with zeros.
struct StageGradient {
  double* data = nullptr;
  long batch = 0, stage = 0;
  int first = 0;
  long size = 0;  // of one element's stages together
  double* at(int i, int k) const { return k < first ? nullptr : data + i * batch + (k - first) * stage; }
};

struct OcpGradients {
  StageGradient Q, R, S, q, r, Q_N, q_N, A, B, c, x0, C, D, lower, upper, C_N, lower_N, upper_N;
  StageGradient x_lower, x_upper, u_lower, u_upper;
  StageGradient slack_linear, slack_quadratic, slack_linear_N, slack_quadratic_N;
};

// Of a row that is shifted on both sides, and held in the middle of its bounds.
constexpr double both_sides = 2.0;

// The part of the bound `of_side`, 1 or -1, in the one that a row is held at.
template <class Real>
Real bound_share(Real side, double of_side) {
  return select(side == Real(of_side), Real(1.0), select(side == Real(both_sides), Real(0.5), Real(0.0)));
}

// A vector of unknowns and one of rows, in the caller's units (ocp_layout.hpp).
template <class Real>
struct OcpVector {
  const Real *unknowns = nullptr, *rows = nullptr;
};

template <class Real>
struct OcpAdjointPair {
  OcpVector<Real> v, q;  // the solution (x, y, z), and that of the adjoint system
  // Of a shifted solution: (eta, pi, s) of kkt_system.hpp, absent otherwise.
  OcpVector<Real> level_v, level_q;
  const Real* side;  // of each row: 1 upper bound, -1 lower bound, 0 inactive, or both_sides
  // Of rows on both sides, half the loss's gradient by their shifts, added up; absent where there are none.
  const Real* of_shifts = nullptr;
  Real objective;  // the loss's gradient by the objective
  const OcpSlacks<Real>* slacks;
};

// Adds the gradients of elements first..last-1, of those that are `done`.
template <class Real>
void add_gradients(const OcpLayout<Real>& at, const OcpBatch& batch, const OcpAdjointPair<Real>& pair, int first,
                   int last, const bool* done, const OcpGradients& out);

extern template void add_gradients(const OcpLayout<Pack>&, const OcpBatch&, const OcpAdjointPair<Pack>&, int, int,
                                   const bool*, const OcpGradients&);
extern template void add_gradients(const OcpLayout<double>&, const OcpBatch&, const OcpAdjointPair<double>&, int, int,
                                   const bool*, const OcpGradients&);

}  // namespace qp_control

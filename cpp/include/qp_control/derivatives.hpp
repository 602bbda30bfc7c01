// Adjoint of the solution map: gradients of a loss with respect to the data, from its gradients with respect to the
// outputs.
//
// With the active rows at the solution (weakly active ones included) and K = [H G'; G 0], solve K (dx, dz) = -(L_x,
// L_z):
//
//     L_g = dx,  L_H = (dx x' + x dx')/2,  L_G = z dx' + dz x',  L_bound = -dz.
//
// Closest feasible: the shifted rows E x - s = e are differentiated through the optimality E's + F'pi = 0 of the first
// level (least_shift.hpp), whose multiplier is eta, nu = E eta. The system in (x, s, pi, nu, lambda, eta, z) is
// symmetric, so the adjoint solves the same one; eliminating with Q leaves the K of the second level:
//
//     K (dx, theta, dz) = (r_x + E'r_s, Q'r_nu, r_z),   dnu = Q theta - r_s,   ds = E dx - r_nu,
//     L_E = nu dx' + dnu x' + s deta' + ds eta',  L_e = -dnu,  E P_F deta = Q theta,
//     L_F = lambda dx' + dlambda x' + pi deta' + dpi eta',  F'dpi = -E'ds.
//
// The idea of differentiating there: Bambade et al., "Leveraging augmented-Lagrangian techniques for differentiating
// over infeasible quadratic programs in machine learning", ICLR 2024.
#pragma once

#include "qp_control/dense_qp.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

// Gradients of the loss with respect to the outputs; that of the shift s_eq of an equality is given as shift_upper and,
// negated, as shift_lower.
struct Cotangents {
  Cotangents(int n, int rows) : x(n), z(rows), shift_lower(rows), shift_upper(rows) {}
  Vector x, z, shift_lower, shift_upper;
  double objective = 0.0;
};

// Gradients with respect to the data; that of an equality's right-hand side is lower plus upper.
struct Gradients {
  Gradients(int n, int stored_rows)
      : H(n, n), g(n), R(stored_rows, n), lower(stored_rows + n), upper(stored_rows + n) {}
  void set_zero();

  RowMatrix H;
  Vector g;
  RowMatrix R;
  Vector lower, upper;

  // Certificate.
  double residual =
      0.0;  // of the adjoint system, relative to the size of its terms (least squares: of its normal equations)
  int weakly_active = 0;    // rows on their bound with a multiplier of zero
  int rank_deficiency = 0;  // of the system; above zero the derivative is the minimum-norm least-squares one
};

// Zero gradients where the solution is neither SOLVED nor CLOSEST_FEASIBLE.
void adjoint(const StackedQP& qp, const Solution& solution, const Cotangents& loss, Gradients& out);

}  // namespace qp_control

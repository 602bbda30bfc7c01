// Ruiz equilibration: x = D x^, rows scaled by E, objective by c, so that [H R'; R 0] has columns of similar size.
// Source: Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", RAL 2001.
#pragma once

#include "qp_control/dense_qp.hpp"

namespace qp_control {

struct Equilibration {
  Equilibration(int n, int rows) : D(Vector::Ones(n)), E(Vector::Ones(rows)), c(1.0), norm(n) {}

  // Chooses D, E and c for qp and writes the scaled problem. Box rows keep coefficient one: E_box = 1 / D.
  void scale(const StackedQP& qp, StackedQP& scaled);

  void unscale(const Vector& x_scaled, const Vector& z_scaled, Vector& x, Vector& z) const;
  void scale(const Vector& x, const Vector& z, Vector& x_scaled, Vector& z_scaled) const;

  Vector D, E;
  double c;

 private:
  Vector norm;  // of the columns, in one pass
};

}  // namespace qp_control

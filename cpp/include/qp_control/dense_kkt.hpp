// Dense KKT back end of the augmented-Lagrangian loop: the loop asks for M = H + rho I + rows' diag(weight) rows, its
// Cholesky factor, and products with the problem's data. Another structure is another class with these members.
#pragma once

#include "qp_control/dense_qp.hpp"

namespace qp_control {

class DenseKkt {
 public:
  DenseKkt(int n, int stored_rows) : qp(n, stored_rows), M_(n, n), L_(n, n), weight_(stored_rows + n), row_(n) {}

  int n() const { return qp.n(); }
  int rows() const { return qp.rows(); }
  const Vector& g() const { return qp.g; }
  const Vector& lower() const { return qp.lower; }
  const Vector& upper() const { return qp.upper; }

  // To be called after qp has been written.
  void reset() { assembled_ = false; }

  void apply_hessian(const Vector& x, Vector& out) const {
    if (qp.linear_program)
      out.setZero();
    else
      out.noalias() = qp.H * x;
  }
  void apply_rows(const Vector& x, Vector& v) const { qp.apply_rows(x, v); }
  void add_rows_transposed(const Vector& z, Vector& out) const { qp.add_rows_transposed(z, out); }

  // Factors M; rows whose weight has not changed since the last call are not added again. False: not positive definite.
  bool factor(const Vector& weight, double rho);
  // rhs <- M^-1 rhs
  void solve(Vector& rhs) const;

  StackedQP qp;  // equilibrated

 private:
  void assemble(const Vector& weight, double rho);
  bool update(const Vector& weight);

  Matrix M_, L_;   // lower triangles
  Vector weight_;  // in M_
  Vector row_;
  double rho_ = 0.0;
  int updates_ = 0;
  bool assembled_ = false;
};

}  // namespace qp_control

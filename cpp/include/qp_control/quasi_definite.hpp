// The quasi-definite system of an interior-point step,
//
//     [H + diag(d)   R'     ] (x)   (a)
//     [R            -diag(e)] (y) = (b),      d, e > 0,
//
// by the cheapest elimination first: of y (a Cholesky factor of the size of x), or of x where H is diagonal and R has
// fewer rows than columns. Both square the condition of R; where that shows in the residual, the whole matrix is
// factored with row exchanges instead, which needs no help from d and e. Why the eliminated forms usually do: Wright,
// "Stability of augmented system factorizations in interior-point methods", SIAM J. Matrix Anal. Appl. 1997.
#pragma once

#include <Eigen/Cholesky>
#include <Eigen/LU>

#include "qp_control/linear_algebra.hpp"

namespace qp_control {

class QuasiDefinite {
 public:
  QuasiDefinite(Matrix H, RowMatrix R);

  auto row(int i) const { return R_.row(i); }
  // False: not finite.
  bool factor(const Vector& d, const Vector& e);
  // Refined. Where the residual asks for it, factors the whole matrix, now and in every later factor().
  void solve(const Vector& a, const Vector& b, Vector& x, Vector& y);

 private:
  enum class Eliminated { ROWS, VARIABLES, NOTHING };

  bool factor();
  void back_substitute(const Vector& a, const Vector& b, Vector& x, Vector& y) const;
  // Returns the residual that it ends with, relative to the right-hand side.
  double refine(const Vector& a, const Vector& b, Vector& x, Vector& y) const;

  Matrix H_;
  RowMatrix R_, R_size_;  // the latter with absolute values
  bool diagonal_;         // H
  Eliminated eliminated_;
  Vector d_, e_;
  Matrix scaled_, reduced_;
  Eigen::LLT<Matrix> cholesky_;
  Eigen::PartialPivLU<Matrix> lu_;
};

}  // namespace qp_control

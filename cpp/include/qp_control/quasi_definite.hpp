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

#include <vector>

#include "qp_control/reserved.hpp"

namespace qp_control {

class QuasiDefinite {
 public:
  // For an R of at most that many rows.
  QuasiDefinite(int n, int most_rows);

  // H, and the rows of R that R is made of here.
  void load(const Eigen::Ref<const Matrix>& H, const Eigen::Ref<const RowMatrix>& R, const std::vector<int>& rows);

  auto row(int i) const { return R_.row(i); }
  // Of the last solve: was the whole matrix not needed?
  bool eliminated() const { return eliminated_ != Eliminated::NOTHING; }
  // False: not finite.
  bool factor(const Vector& d, const Reserved<Vector>& e);
  // Refined. Where the residual asks for it, factors the whole matrix, now and in every later factor().
  void solve(const Vector& a, const Reserved<Vector>& b, Vector& x, Reserved<Vector>& y);

 private:
  enum class Eliminated { ROWS, VARIABLES, NOTHING };

  bool factor();
  // The positive definite matrix that elimination leaves; the whole.
  bool factor_reduced();
  void factor_whole();
  // (step_x_, step_y_) for the right-hand side (r_, s_).
  void back_substitute();
  // Returns the residual that it ends with, relative to the right-hand side.
  double refine(const Vector& a, const Reserved<Vector>& b, Vector& x, Reserved<Vector>& y);

  Matrix H_;
  Reserved<RowMatrix> R_, R_size_;  // the latter with absolute values
  bool diagonal_ = false;           // H
  Eliminated eliminated_ = Eliminated::ROWS;
  Vector d_;
  Reserved<Vector> e_;
  // What elimination of y leaves is H + diag(d) + sum_k v_k v_k' / e_k, v_k the rows of R; elimination of a diagonal
  // H's x leaves diag(e) + sum_k v_k v_k' / (H_kk + d_k), v_k the columns of R.
  Reserved<PackArray> vectors_, weighted_, M_, L_, inverse_diagonal_, rhs_, whole_;
  std::vector<const double*> vector_at_, weighted_at_;
  std::vector<int> exchanged_;
  Vector r_, step_x_, best_x_, Px_, Ry_, x_size_;
  Reserved<Vector> s_, step_y_, best_y_, Rx_, ey_, y_size_, stacked_;
};

}  // namespace qp_control

// Dense KKT back end of the augmented-Lagrangian loop: the loop asks for M = H + rho I + rows' diag(weight) rows, its
// factor, and products with the problem's data. Another structure is another class with these members.
//
// A diagonal H that is not too small is exploited: products with it, its equilibration, and a factor of the size of the
// rows. A linear program keeps the factor of M: of rho I alone the rows' factor would lose the digits that stiff rows
// need.
#pragma once

#include <optional>
#include <vector>

#include "qp_control/dense_qp.hpp"
#include "qp_control/diagonal_plus_rows.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/kept_factor.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {

// Allocates in its constructor, and once more where a problem first has a diagonal H.
class DenseKkt {
 public:
  // The first `equalities` of the stored rows always have one weight in common.
  DenseKkt(int n, int stored_rows, int equalities = 0);

  int n() const { return n_; }
  int variables() const { return static_cast<int>(g_.size()); }  // in packs
  int rows() const { return stored_ + n_; }
  int stored_rows() const { return stored_; }
  const PackArray& g() const { return g_; }
  const PackArray& lower() const { return lower_; }
  const PackArray& upper() const { return upper_; }
  // Equilibrated.
  Eigen::Map<const Matrix, 0, Eigen::OuterStride<>> hessian() const { return {numbers(H_), n_, n_, stride_}; }
  Eigen::Map<const RowMatrix, 0, Eigen::OuterStride<>> stored() const { return {numbers(R_), stored_, n_, stride_}; }
  // All lanes work on the one problem.
  static Pack sum(Pack partial) { return sum_of_lanes(partial); }
  static Pack max(Pack partial) { return max_of_lanes(partial); }
  static Mask all(Mask partial) { return Mask::all(qp_control::all(partial)); }

  // Takes the problem in and equilibrates it. same_hessian: H is that of the last call. False: H is not positive
  // semidefinite.
  bool load(const StackedQP& qp, Equilibration& scaling, bool same_hessian = false);
  // The same where only the vectors have changed since the last call.
  bool load_vectors(const StackedQP& qp, Equilibration& scaling);

  void apply_hessian(const PackArray& x, PackArray& out) const;
  void apply_rows(const PackArray& x, PackArray& v) const;
  void add_rows_transposed(const PackArray& z, PackArray& out) const;

  // Factors M; rows whose weight has not changed since the last call are not added again. The factor itself is made
  // anew: at n = 100 that costs as much as two of its rank-one updates, by count of operations, and rows that are taken
  // out of a factor leave the rounding of their weight, up to 1e8, behind. False: not positive definite.
  Mask factor(const PackArray& weight, Pack rho);
  // rhs <- M^-1 rhs
  void solve(PackArray& rhs);
  // The Cholesky factor of M, its weights and its scaling; nothing where there is none.
  void keep(const Equilibration& scaling, KeptFactor to) const;

 private:
  // Is H positive semidefinite, up to rounding? Sets least_curvature_.
  bool convex();
  ScalableQP<double> scalable();
  void load_hessian(const StackedQP& qp);
  // Whether they differ from those of the last factor.
  bool take_weights(const double* weight, int first, int last);
  Mask factor_by_rows(const double* weight, Pack rho);
  void add_equalities(double weight, const PackArray& from);
  void add_rows(const double* weight);

  int n_, stored_, equalities_, stride_;
  bool linear_program_ = false, diagonal_hessian_ = false, assembled_ = false, convex_ = true;
  double least_curvature_ = 0.0;  // that makes H positive definite, in the caller's units
  PackArray g_, lower_, upper_;
  PackArray regularisation_;  // of H in M
  PackArray H_, R_;           // equilibrated
  PackArray H_diagonal_;      // where H is diagonal
  PackArray gram_;            // A'A of the first equalities, lower triangle
  bool gram_known_ = false;
  PackArray M_, L_;              // lower triangles
  PackArray diagonal_;           // of M, without the box
  PackArray inverse_diagonal_;   // of L
  PackArray weight_, weighted_;  // in M_; rows that are about to be added, times their weight
  std::vector<const double*> changed_, scaled_;
  // Of problems with a diagonal H that have no more rows than variables.
  std::optional<DiagonalPlusRows> by_rows_;
  bool uses_rows_ = false;
  PackArray D_;
};

}  // namespace qp_control
